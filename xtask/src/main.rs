//! `cargo xtask`: the project's own checks. Holds the command line; each command lives in its own module.

mod bench_api;
mod bench_engine;
mod chaos;
mod fuzz;
mod http;
mod imports;
mod manifests;
mod parity;
mod rust;
mod sbom;
mod server;
mod templates;
mod text;
mod tidy;
mod torture;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::parity::Set;

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy                               check the rules that the compiler does not: floors, file headers, left-over notes, links
  parity [--sd15|--sdxl|--extra|--families] [--only PREFIX]
                                     run the recorded diffusion cases, or one set of them, on full-size test checkpoints, which are made
                                     if they are not there (27 GB; --sd15 2 GB)
  bench-api                          measure the server, beside a ComfyUI if one is given; --help tells how
  bench-cluster NATS_SERVER [SERVERS]
                                     measure the queue on NATS: throughput, claims, what a job costs
  bench-engine                       the same for making a picture
  templates                          tell which node classes and models the official workflow templates lack; --help tells how
  torture                            kill the server at random under load and look for what is lost; --help tells how
  chaos                              kill and stop parts of a cluster at random and look for what is lost; --help tells how
  fuzz [--seconds N] [--keep] [TARGET...]
                                     run the targets of fuzz/ and say what they reached and found
  sbom [--target TRIPLE] [--features LIST] [FILE]
                                     list the libraries that go into the program (CycloneDX)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tidy"] => tidy(),
        ["parity", options @ ..] => match parity_options(options) {
            Some((sets, only)) => parity(sets, only),
            None => usage(),
        },
        ["bench-api", ..] => bench(bench_api::run(&root(), &arguments[1..])),
        ["bench-cluster", program, more @ ..] => {
            let example = ["run", "--release", "-p", "comfyd-store-nats", "--example", "cluster", "--", program];
            bench(server::cargo(&root(), &[&example, more].concat(), &[]).map_err(|error| error.to_string()))
        }
        ["bench-engine", ..] => bench(bench_engine::run(&root(), &arguments[1..])),
        ["templates", ..] => bench(templates::run(&root(), &arguments[1..])),
        ["torture", ..] => bench(torture::run(&root(), &arguments[1..])),
        ["chaos", ..] => bench(chaos::run(&root(), &arguments[1..])),
        ["fuzz", ..] => bench(fuzz::run(&root(), &arguments[1..])),
        ["sbom", ..] => bench(sbom::run(&root(), &arguments[1..])),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Which cases, and how their names begin.
fn parity_options<'a>(options: &[&'a str]) -> Option<(&'static [Set], &'a str)> {
    let (sets, options): (&[Set], _) = match options {
        ["--sd15", rest @ ..] => (&[Set::Sd15], rest),
        ["--sdxl", rest @ ..] => (&[Set::Sdxl], rest),
        ["--extra", rest @ ..] => (&[Set::Extra], rest),
        ["--families", rest @ ..] => (&[Set::Families], rest),
        rest => (&Set::ALL, rest),
    };
    match options {
        [] => Some((sets, "")),
        ["--only", only] => Some((sets, only)),
        _ => None,
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn bench(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parity(sets: &[Set], only: &str) -> ExitCode {
    let root = root();
    match parity::run(&root, sets, only) {
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
    let root = root();
    let tree = match tree::Tree::read(&root) {
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
