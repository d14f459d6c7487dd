//! The comfyd binary: command line, configuration, and the place where all parts are put together. The only crate that reads the
//! environment, the arguments and the current directory.

mod assemble;
mod beside;
mod cluster;
mod config;
mod db;
mod devices;
mod elsewhere;
mod frontend;
mod heavy;
mod key;
mod leash;
mod manual;
mod nats;
mod nodes;
mod process;
mod python;
mod run;
mod said;
mod serve;
mod tls;

use std::any::Any;
use std::process::ExitCode;

use comfyd_engine::CpuLevel;

use crate::assemble::Failure;
use crate::config::Action;

/// glibc's allocator grows by about 100 KB with every small prompt: what the history keeps in memory pins the pages of the pictures between
/// which it was allocated.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whether the allocator takes address space in advance and keeps it. It reads this when the process starts.
#[cfg(target_os = "linux")]
const KEEPS_NONE: (&str, &str) = ("MIMALLOC_DISALLOW_ARENA_ALLOC", "1");

/// Where the address space is bounded (`ulimit -v`), begins anew with an allocator that gives back what it does not use: otherwise what was
/// large once has no place for other sizes. Where that cannot be had, the program goes on as it is.
#[cfg(target_os = "linux")]
fn spare_address_space() {
    use std::os::unix::process::CommandExt as _;
    let (name, value) = KEEPS_NONE;
    if std::env::var_os(name).is_none()
        && comfyd_memory::machine::address_space().is_some()
        && let Ok(program) = std::env::current_exe()
    {
        let mut arguments = std::env::args_os();
        let name_of_it = arguments.next().unwrap_or_default();
        // It returns only if it failed.
        let _error = std::process::Command::new(program).arg0(name_of_it).args(arguments).env(name, value).exec();
    }
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(ended) = leash::hold() {
        return ended;
    }
    #[cfg(target_os = "linux")]
    spare_address_space();
    // What panics on this thread ends the program, and becomes a sentence. Other threads have their panics caught and told of.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("main") {
            default(panic);
        }
    }));
    let done = std::panic::catch_unwind(act).unwrap_or_else(|panic| Err(refused(&*panic).into()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            assemble::print_notice(format_args!("comfyd: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Libraries panic where the system refuses what they cannot do without: threads, above all.
fn refused(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!(
        "the program cannot go on: {}: raise the limits on processes and open files (`ulimit -u`, `ulimit -n`), or report this as a bug",
        text.unwrap_or("an unknown failure")
    )
}

fn act() -> Result<(), Failure> {
    let current_dir =
        std::env::current_dir().map_err(|error| format!("the current folder cannot be used: {error}: change into one that exists"))?;
    let config = match config::parse(std::env::args_os(), std::env::vars_os(), &current_dir) {
        Ok(config) => config,
        Err(config::Error::Usage(usage)) => usage.exit(),
        Err(error) => return Err(error.into()),
    };
    match &config.action {
        Action::Serve => serve::serve(config),
        Action::Run { workflow, set } => run::run(&config, workflow, set),
        Action::CheckPython { json } => python::check(&config, *json),
        Action::Nodes { class } => nodes::list(&config, class.as_deref()),
        Action::Work => cluster::work(&config),
        Action::ClusterStatus { json } => cluster::status(&config, *json),
        Action::Db(action) => db::act(&config, action),
        Action::Key(action) => key::act(&config, action),
        Action::Completions(shell) => manual::completions(*shell),
        Action::Man(folder) => manual::pages(folder),
        Action::ListFeatureFlags => assemble::print_line(format_args!("{:#}", config::flags::listed())),
        Action::ListCpuFeatures => {
            let names: Vec<_> = CpuLevel::available().map(CpuLevel::name).collect();
            assemble::print_line(names.join("\n"))
        }
        Action::InstallFrontEnd { version, .. } if config.offline => {
            Err(frontend::Error::Offline(version.as_deref().unwrap_or(frontend::PINNED_VERSION).to_owned()).into())
        }
        Action::InstallFrontEnd { version, docs, templates, blueprints } => {
            let media: &'static [frontend::Package] = &frontend::TEMPLATE_MEDIA;
            let (workflows, pictures): (bool, &'static [_]) = match templates {
                config::Templates::None => (false, &[]),
                config::Templates::Workflows => (true, &[]),
                config::Templates::All => (true, media),
            };
            let wanted = [(*docs, &frontend::DOCS), (workflows, &frontend::TEMPLATES), (*blueprints, &frontend::BLUEPRINTS)];
            let extras: Vec<_> = wanted.into_iter().filter_map(|(wanted, extra)| wanted.then_some(extra)).chain(pictures).collect();
            let root = serve::install_front_end(version.as_deref(), &extras, &config.front_end_base)?;
            assemble::print_line(root.display())
        }
    }
}
