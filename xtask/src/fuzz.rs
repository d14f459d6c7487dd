//! Fuzzing: builds the targets in `fuzz/` with cargo-fuzz, runs each for a while and says what came of it. Knows no target: they are listed in
//! `fuzz/Cargo.toml`, and what they call is in the crates' `fuzz.rs`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use toml::{Table, Value};

const USAGE: &str = "usage: cargo xtask fuzz [--seconds N] [--keep] [TARGET...]

  Runs each target of fuzz/ for N seconds (600), or those that are named, beginning with what is kept in fuzz/corpus and with what earlier
  runs left in fuzz/work. Needs a nightly compiler and cargo-fuzz; with clang the libraries in C are looked through too.
    --keep  afterwards replaces what earlier runs left in fuzz/corpus by a few short files that reach much of the same code";

/// Memory of a target, in MiB, and seconds of one input, beyond which it has failed.
const LIMITS: [&str; 2] = ["-rss_limit_mb=3000", "-timeout=10"];
/// Longest file that is kept, in bytes, and how many of each target, besides those that somebody wrote: all are in the repository.
const MAX_KEPT_BYTES: &str = "-max_len=256";
const MAX_KEPT_FILES: usize = 32;

struct Target {
    name: String,
    features: String,
}

/// Runs the command.
pub fn run(root: &Path, arguments: &[String]) -> Result<(), String> {
    let (mut seconds, mut keep, mut wanted) = (600u32, false, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seconds" => seconds = rest.next().and_then(|text| text.parse().ok()).ok_or(USAGE)?,
            "--keep" => keep = true,
            option if option.starts_with('-') => return Err(USAGE.into()),
            name => wanted.push(name.to_owned()),
        }
    }
    let folder = root.join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).map_err(|e| format!("fuzz/Cargo.toml cannot be read: {e}"))?;
    let targets = targets(&manifest.parse::<Table>().map_err(|e| format!("fuzz/Cargo.toml is no TOML: {e}"))?);
    if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|target| target.name == **name)) {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        return Err(format!("there is no target '{unknown}': name some of {}", names.join(", ")));
    }
    // The libraries of the program, not later ones.
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).map_err(|e| format!("Cargo.lock cannot be copied: {e}"))?;
    let mut failed = Vec::new();
    println!("{:14} {:>12} {:>8} {:>9} {:>8} {:>9}", "target", "executions", "edges", "features", "inputs", "peak MiB");
    for target in targets.iter().filter(|target| wanted.is_empty() || wanted.contains(&target.name)) {
        if !one(&folder, target, seconds)? {
            failed.push(target.name.as_str());
        }
        if keep {
            keep_few(&folder, target)?;
        }
    }
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(format!("found something in {}: see fuzz/artifacts", failed.join(", "))),
    }
}

fn targets(manifest: &Table) -> Vec<Target> {
    let bins = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    let target = |bin: &Value| {
        let features = bin.get("required-features").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        Some(Target { name: bin.get("name")?.as_str()?.to_owned(), features: features.collect::<Vec<_>>().join(",") })
    };
    bins.filter_map(target).collect()
}

/// Runs a target and prints its line; whether it found nothing.
fn one(folder: &Path, target: &Target, seconds: u32) -> Result<bool, String> {
    let name = &target.name;
    let made = |path: String| fs::create_dir_all(folder.join(&path)).map(|()| path).map_err(|e| e.to_string());
    let (work, corpus) = (made(format!("work/{name}"))?, made(format!("corpus/{name}"))?);
    let time = format!("-max_total_time={seconds}");
    let mut options = vec![time.as_str(), "-print_final_stats=1", LIMITS[0], LIMITS[1]];
    let dictionary = format!("-dict=dictionaries/{name}.dict");
    if folder.join(&dictionary[6..]).is_file() {
        options.push(&dictionary);
    }
    let output = cargo_fuzz(folder, target, &[&work, &corpus], &options)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let Some(figures) = figures(&said) else { return Err(format!("the target '{name}' cannot be run: {}", said.trim())) };
    println!("{name:14} {figures}");
    if !output.status.success() {
        eprintln!("{}", said.lines().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(output.status.success())
}

/// Executions, edges, features, inputs and memory, of what a target says at its end.
fn figures(said: &str) -> Option<String> {
    let of = |line: &str, key: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != key);
        words.nth(1).map(str::to_owned)
    };
    let last = said.lines().rev().find(|line| line.contains(" cov: "))?;
    let stat = |name: &str| said.lines().rev().find_map(|line| of(line, &format!("stat::{name}:"))).unwrap_or_else(|| "?".into());
    let (edges, features) = (of(last, "cov:")?, of(last, "ft:")?);
    let inputs = of(last, "corp:")?.split('/').next()?.to_owned();
    let executions = stat("number_of_executed_units");
    Some(format!("{executions:>12} {edges:>8} {features:>9} {inputs:>8} {:>9}", stat("peak_rss_mb")))
}

/// Replaces what runs left in the kept corpus by a few files that reach much of what a target's work reaches. What has a name stays.
fn keep_few(folder: &Path, target: &Target) -> Result<(), String> {
    let (corpus, work) = (format!("corpus/{}", target.name), format!("work/{}", target.name));
    let failed = |error: std::io::Error| format!("the corpus of '{}' cannot be changed: {error}", target.name);
    for (_, file) in found(&folder.join(&corpus)).map_err(failed)? {
        fs::rename(folder.join(&corpus).join(&file), folder.join(&work).join(&file)).map_err(failed)?;
    }
    let options = ["-merge=1", "-set_cover_merge=1", "-use_counters=0", MAX_KEPT_BYTES, LIMITS[0], LIMITS[1]];
    let output = cargo_fuzz(folder, target, &[&corpus, &work], &options)?;
    if !output.status.success() {
        return Err(format!("the corpus of '{}' cannot be reduced: {}", target.name, String::from_utf8_lossy(&output.stderr).trim()));
    }
    // Of those that are too many the shortest go: they reach least.
    let mut kept = found(&folder.join(&corpus)).map_err(failed)?;
    kept.sort();
    for (_, file) in kept.iter().rev().skip(MAX_KEPT_FILES) {
        fs::remove_file(folder.join(&corpus).join(file)).map_err(failed)?;
    }
    Ok(())
}

/// Files that runs left, which are called by their hash, with their lengths.
fn found(folder: &Path) -> std::io::Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found.push((entry.metadata()?.len(), name));
        }
    }
    Ok(found)
}

fn cargo_fuzz(folder: &Path, target: &Target, corpora: &[&str], options: &[&str]) -> Result<std::process::Output, String> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder).args(["+nightly", "fuzz", "run", "--fuzz-dir", ".", "--features", &target.features, &target.name]);
    cargo.args(corpora).arg("--").args(options).stdout(Stdio::null()).env("LSAN_OPTIONS", "suppressions=leaks.supp");
    let clang = Command::new("clang").arg("--version").output().is_ok_and(|output| output.status.success());
    if clang {
        cargo.envs([("CC", "clang"), ("CXX", "clang++"), ("CFLAGS", "-fsanitize=address,fuzzer-no-link -g1"), ("CXXFLAGS", "-g1")]);
    }
    cargo.output().map_err(|e| format!("cargo cannot be started: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn targets_and_figures_are_read() {
        let manifest = "[[bin]]\nname = \"a\"\nrequired-features = [\"x\", \"y\"]\n".parse().unwrap();
        let found = targets(&manifest);
        assert_eq!((found.len(), found[0].name.as_str(), found[0].features.as_str()), (1, "a", "x,y"));
        let said = "#12\tNEW    cov: 7 ft: 9 corp: 3/20b lim: 4 exec/s: 0 rss: 30Mb\n#90\tDONE   cov: 8 ft: 11 corp: 4/33b\n\
                    stat::number_of_executed_units: 90\nstat::peak_rss_mb:              31\n";
        assert_eq!(figures(said).unwrap().split_whitespace().collect::<Vec<_>>(), ["90", "8", "11", "4", "31"]);
        assert_eq!(figures("error: no such subcommand"), None);
    }

    /// What is kept is run by each crate's tests; a target without a corpus, or a corpus without a target, would be run by none.
    #[test]
    fn every_target_has_a_kept_corpus_and_every_corpus_a_target() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let names = |folder: &Path| {
            let entries = fs::read_dir(folder).unwrap();
            let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let mut known: Vec<String> = targets(&fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap())
            .into_iter()
            .map(|target| target.name)
            .collect();
        known.sort();
        assert_eq!(names(&folder.join("corpus")), known);
        let sources: Vec<String> = known.iter().map(|name| format!("{name}.rs")).collect();
        assert_eq!(names(&folder.join("fuzz_targets")), sources);
    }
}
