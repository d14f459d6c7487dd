//! The comfyd binary: command line, configuration, and the place where all parts are put together. The only crate that reads the
//! environment, the arguments and the current directory.

mod assemble;
mod config;
mod frontend;
mod nodes;
mod run;
mod serve;

use std::process::ExitCode;

use crate::assemble::Failure;
use crate::config::Action;

/// glibc's allocator grows by about 100 KB with every small prompt: what the history keeps in memory pins the pages of the pictures between
/// which it was allocated.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("comfyd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> Result<(), Failure> {
    let config = match config::parse(std::env::args_os(), std::env::vars_os(), &std::env::current_dir()?) {
        Ok(config) => config,
        Err(config::Error::Usage(usage)) => usage.exit(),
        Err(error) => return Err(error.into()),
    };
    match &config.action {
        Action::Serve => serve::serve(config),
        Action::Run { workflow, set } => run::run(&config, workflow, set),
        Action::Nodes { class } => nodes::list(&config, class.as_deref()),
        Action::InstallFrontEnd { version, docs, templates } => {
            let wanted = [(*docs, &frontend::DOCS), (*templates, &frontend::TEMPLATES)];
            let extras: Vec<_> = wanted.into_iter().filter_map(|(wanted, extra)| wanted.then_some(extra)).collect();
            let root = serve::install_front_end(version.as_deref(), &extras, &config.roots.base)?;
            println!("{}", root.display());
            Ok(())
        }
    }
}
