//! Workers on the stub installation beside this file: a ComfyUI for tests, without torch and packages.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(unix)]

mod calls;
mod failures;
mod installation;
mod support;
