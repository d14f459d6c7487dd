//! What is told of the command line outside of it: a shell's completions, and the pages of the manual. Both are made of its description.

use std::path::Path;

use clap_complete::{Shell, generate};

use crate::assemble::{self, Failure};
use crate::config;

/// Prints a shell's completions.
pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    generate(shell, &mut config::command(), "comfyd", &mut script);
    assemble::print_line(String::from_utf8_lossy(&script).trim_end())
}

/// Writes the manual's pages.
pub(crate) fn pages(folder: &Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(config::command(), folder));
    Ok(written
        .map_err(|error| format!("cannot write the manual into {}: {error}: name a folder that you may write into", folder.display()))?)
}
