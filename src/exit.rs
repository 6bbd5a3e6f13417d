//! The exit codes of the program. The command line's help explains them all.

pub const CLEAN: u8 = 0;
/// It could not start, failed for good, or a command was refused or not answered.
pub const FAILED: u8 = 1;
/// A wrong command line or profile.
pub const BAD_INPUT: u8 = 2;
/// Sessions were cut, by the drain deadline or a second signal.
pub const CUT: u8 = 3;
