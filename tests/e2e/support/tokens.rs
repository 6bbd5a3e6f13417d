//! Signed tokens, made by the cryptography library itself and by hand, so that they can be wrong in any way.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use data_encoding::BASE64URL_NOPAD as BASE64URL;
use serde_json::{Value, json};

/// Who signs tokens.
pub struct Signer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    rsa: RsaKeyPair,
    /// Of HS256.
    pub secret: [u8; 32],
}

impl Signer {
    pub fn new() -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).unwrap();
        Self {
            ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            secret,
        }
    }

    /// The public keys, `NAME-rs`, `NAME-es` and `NAME-ed`.
    pub fn keys(&self, name: &str) -> Vec<Value> {
        let (rsa, point) = (self.rsa.public_key(), self.ec.public_key().as_ref());
        let text = |bytes: &[u8]| BASE64URL.encode(bytes);
        let modulus = rsa.modulus().big_endian_without_leading_zero();
        let exponent = rsa.exponent().big_endian_without_leading_zero();
        vec![
            json!({ "kty": "RSA", "kid": format!("{name}-rs"), "use": "sig", "n": text(modulus), "e": text(exponent) }),
            json!({ "kty": "EC", "crv": "P-256", "kid": format!("{name}-es"), "alg": "ES256",
                "x": text(&point[1..33]), "y": text(&point[33..]) }),
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": format!("{name}-ed"), "x": text(self.ed.public_key().as_ref()) }),
        ]
    }

    /// The modulus of the RSA key, which everybody knows.
    pub fn modulus(&self) -> Vec<u8> {
        self.rsa.public_key().modulus().big_endian_without_leading_zero().to_vec()
    }

    /// A token by the algorithm that its head names; an unknown algorithm signs nothing.
    pub fn sign(&self, head: &Value, claims: &Value) -> String {
        self.sign_text(&head.to_string(), &claims.to_string())
    }

    pub fn sign_text(&self, head: &str, claims: &str) -> String {
        let signed = format!("{}.{}", BASE64URL.encode(head.as_bytes()), BASE64URL.encode(claims.as_bytes()));
        let named: Value = serde_json::from_str(head).unwrap_or_default();
        let signature = self.signature(named["alg"].as_str().unwrap_or_default(), signed.as_bytes());
        format!("{signed}.{}", BASE64URL.encode(&signature))
    }

    fn signature(&self, algorithm: &str, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |padding: &'static dyn aws_lc_rs::signature::RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, signed, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self.ec.sign(&random, signed).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(signed).as_ref().to_vec(),
            "HS256" => hmac_of(hmac::HMAC_SHA256, &self.secret, signed),
            "HS512" => hmac_of(hmac::HMAC_SHA512, &self.secret, signed),
            _ => Vec::new(),
        }
    }
}

pub fn hmac_of(by: hmac::Algorithm, secret: &[u8], signed: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(by, secret), signed).as_ref().to_vec()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
