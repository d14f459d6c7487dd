//! How answers are made: files with their validators, JSON that is text already, work that must not hold up a request thread. Does not
//! know what is answered.

mod blocking;
pub(crate) mod file;
mod json;
pub(crate) mod types;

pub(crate) use self::blocking::{blocking, laborious};
pub(crate) use self::json::{json_text, leased, written};
