//! `log`, `access_log` and `audit`: the files that a gateway writes, and who requested them.

use std::path::{Path, PathBuf};

use super::{
    Profile,
    fields::ValueReader,
    keys,
    problem::{Problem, ValueProblem, quote_for_problem},
    yaml::YamlValue,
};

/// How the requests of clients are logged, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogOptions {
    pub target: AccessLogTarget,
    pub format: AccessLogFormat,
}

impl AccessLogOptions {
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.target {
            AccessLogTarget::File(file) => Some(file),
            AccessLogTarget::StandardError => None,
        }
    }
}

impl Profile {
    /// The files that a gateway of this profile writes.
    pub fn files_written(&self) -> impl Iterator<Item = &Path> {
        let requests = self.access_log.as_ref().and_then(AccessLogOptions::file);
        self.log.as_deref().into_iter().chain(requests).chain(self.audit.as_deref())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    StandardError,
    File(PathBuf),
}

/// The format of a request's line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    #[default]
    Json,
    /// As written by Apache and nginx.
    Combined,
}

/// A file, relative to the folder of the profile that names it.
pub(super) fn file(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<PathBuf> {
    let text = field.text(problems)?;
    if text.is_empty() || text.contains('\0') {
        let what = format!("`{}` is not a file's name", quote_for_problem(text));
        return field.refuse(ValueProblem::new(what, "write the name of the file to write"), problems);
    }
    Some(field.node.position.source.folder.join(text))
}

/// A file that nothing else may write, since that would break its chain.
pub(super) fn audit(
    field: &ValueReader<'_>,
    others: [Option<&Path>; 2],
    problems: &mut Vec<Problem>,
) -> Option<PathBuf> {
    let file = file(field, problems)?;
    if others.contains(&Some(&*file)) {
        let what = "a log of this profile is written to the same file, which would break the audit's chain";
        return field.refuse(ValueProblem::new(what, "give the audit a file of its own"), problems);
    }
    Some(file)
}

/// A file, `stderr`, or a map with one of these and a format.
pub(super) fn access_log(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<AccessLogOptions> {
    if !matches!(field.node.value, YamlValue::Map(_)) {
        return Some(AccessLogOptions {
            target: target(field, problems)?,
            format: AccessLogFormat::default(),
        });
    }
    let fields = field.map(&keys::ACCESS_LOG_MAP, problems)?;
    let format = keys::ACCESS_LOG_FORMAT.written(&fields, problems).unwrap_or_default();
    match fields.take(&keys::ACCESS_LOG_TARGET) {
        Some(named) => Some(AccessLogOptions { target: target(&named, problems)?, format }),
        None => {
            fields.report_missing(&keys::ACCESS_LOG_TARGET, "write the file, or `stderr`", problems);
            None
        }
    }
}

fn target(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<AccessLogTarget> {
    if let YamlValue::Text(text) = &field.node.value
        && text == "stderr"
    {
        return Some(AccessLogTarget::StandardError);
    }
    Some(AccessLogTarget::File(file(field, problems)?))
}
