//! `cargo xtask`: the project's own checks. Holds the command line; each command lives in its own module.

mod bench_api;
mod manifests;
mod parity;
mod rust;
mod text;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy                               check the rules that the compiler does not: floors, file headers, left-over notes, links
  parity [--sdxl] [--only PREFIX]    run the recorded diffusion cases on a full-size test checkpoint
  bench-api                          measure the server, beside a ComfyUI if one is given; --help tells how";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy(),
        ["parity"] => parity(false, ""),
        ["parity", "--sdxl"] => parity(true, ""),
        ["parity", "--only", only] => parity(false, only),
        ["parity", "--sdxl", "--only", only] => parity(true, only),
        ["bench-api", ..] => match bench_api::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parity(sdxl: bool, only: &str) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match parity::run(&root, &parity::Parity { sdxl, only }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("parity: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints every finding; fails if there is one.
fn tidy() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tree = match tidy::Tree::read(&root) {
        Ok(tree) => tree,
        Err(error) => {
            eprintln!("tidy: cannot read {}: {error}", root.display());
            return ExitCode::from(2);
        }
    };
    let findings = tidy::check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files checked, nothing found", tree.files.len());
        return ExitCode::SUCCESS;
    }
    eprintln!("tidy: {} findings", findings.len());
    ExitCode::FAILURE
}
