//! `cargo xtask parity`: runs the recorded diffusion cases against this server on a full-size test checkpoint. Knows how to make the
//! checkpoint and to start the server; what passes is decided by `conformance/check_cases.py`.

use std::io::Error;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A cold start of a debug build on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Which cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// Those of Stable Diffusion 1.5.
    Sd15,
    /// Those of Stable Diffusion XL.
    Sdxl,
    /// Those of adapters, patches, guiders and hooks on Stable Diffusion 1.5.
    Extra,
}

impl Set {
    fn cases(self) -> &'static str {
        match self {
            Self::Sd15 => "conformance/diffusion",
            Self::Sdxl => "conformance/diffusion/sdxl",
            Self::Extra => "conformance/diffusion/extra",
        }
    }
}

/// What to run.
pub(crate) struct Parity<'a> {
    /// The cases.
    pub(crate) set: Set,
    /// Only cases whose names begin so.
    pub(crate) only: &'a str,
}

/// The folder that the server works in.
const BASE: &str = "target/parity";

/// The full-size test checkpoint of a family, `sd15` or `sdxl`; made if it is not there.
pub(crate) fn checkpoint(root: &Path, family: &str) -> Result<PathBuf, Error> {
    let checkpoints = root.join(BASE).join("models/checkpoints");
    std::fs::create_dir_all(&checkpoints)?;
    let checkpoint = checkpoints.join(format!("{family}_random.safetensors"));
    if !checkpoint.is_file() {
        println!("making {}", checkpoint.display());
        let layout = root.join(format!("conformance/diffusion/{family}.layout.json"));
        cargo(root, &["run", "--release", "-p", "comfyd-weights", "--example", "make_checkpoint", "--"], &[&layout, &checkpoint])?;
    }
    Ok(checkpoint)
}

/// The server's release build, brought up to date.
pub(crate) fn release_binary(root: &Path) -> Result<PathBuf, Error> {
    cargo(root, &["build", "--release", "-p", "comfyd"], &[])?;
    Ok(std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("release/comfyd"))
}

/// Runs the cases; whether all passed.
pub(crate) fn run(root: &Path, parity: &Parity<'_>) -> Result<bool, Error> {
    checkpoint(root, if parity.set == Set::Sdxl { "sdxl" } else { "sd15" })?;
    if parity.set == Set::Extra {
        let (description, models) = (root.join(parity.set.cases()).join("models.json"), root.join(BASE).join("models"));
        if !all_there(&description, &models)? {
            println!("making the other models in {}", models.display());
            cargo(root, &["run", "--release", "-p", "comfyd-weights", "--example", "make_models", "--"], &[&description, &models])?;
        }
    }
    let binary = release_binary(root)?;
    let base = root.join(BASE);
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let server = Command::new(binary)
        .args(["serve", "--listen", "127.0.0.1", "--front-end", "none", "--verbose", "WARNING", "--port", &port.to_string()])
        .arg("--base-directory")
        .arg(&base)
        .spawn()?;
    let mut server = Server(server);
    server.wait_until_ready(port)?;
    let cases = root.join(parity.set.cases());
    let python = root.join(".venv/bin/python");
    let status = Command::new(python)
        .arg(root.join("conformance/check_cases.py"))
        .arg(format!("http://127.0.0.1:{port}"))
        .arg(cases)
        .args(["--verbose", "--timeout", "3600", "--only", parity.only])
        .status()
        .map_err(|e| Error::other(format!("cannot run .venv/bin/python, which .ci/run makes: {e}")))?;
    Ok(status.success())
}

/// Whether every file of a description is in the folder.
fn all_there(description: &Path, folder: &Path) -> Result<bool, Error> {
    let models: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&std::fs::read(description)?)?;
    Ok(models.keys().all(|file| folder.join(file).is_file()))
}

fn cargo(root: &Path, arguments: &[&str], paths: &[&PathBuf]) -> Result<(), Error> {
    let status = Command::new("cargo").current_dir(root).args(arguments).args(paths).status()?;
    if status.success() { Ok(()) } else { Err(Error::other(format!("cargo {} failed", arguments.join(" ")))) }
}

/// A server that ends with its owner.
struct Server(Child);

impl Server {
    fn wait_until_ready(&mut self, port: u16) -> Result<(), Error> {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.0.try_wait()? {
                return Err(Error::other(format!("the server ended with {status}")));
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(Error::other("the server does not answer"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
