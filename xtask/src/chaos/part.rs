//! A process of a cluster: started, killed, stopped for a while, and started again in the same way. Knows nothing of what it does.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Nats,
    Api,
    Worker,
}

/// A process, running or not.
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) log: PathBuf,
    program: PathBuf,
    /// What it runs once it was killed, if that is another one; and the other way round.
    other: Option<PathBuf>,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Ports that nobody has.
pub(crate) fn free_ports(many: usize) -> io::Result<Vec<u16>> {
    let bound: Vec<TcpListener> = (0..many).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    bound.iter().map(|port| Ok(port.local_addr()?.port())).collect()
}

impl Part {
    /// One of as many NATS servers as half the ports: the first half for clients, the second for each other.
    pub(crate) fn nats(program: &Path, base: &Path, index: usize, ports: &[u16]) -> io::Result<Self> {
        let (clients, routes) = ports.split_at(ports.len() / 2);
        let home = base.join(format!("nats-{index}"));
        std::fs::create_dir_all(&home)?;
        let others: Vec<String> = routes.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let config = format!(
            "listen: 127.0.0.1:{}\nserver_name: n{index}\njetstream {{ store_dir: {:?}, max_mem: 256M, max_file: 8G }}\ncluster {{ name: chaos, \
             listen: 127.0.0.1:{}, routes: [{}] }}\n",
            clients[index],
            home.display().to_string(),
            routes[index],
            others.join(", ")
        );
        std::fs::write(home.join("nats.conf"), config)?;
        let arguments = vec!["-c".to_owned(), home.join("nats.conf").display().to_string()];
        Ok(Self {
            kind: Kind::Nats,
            name: format!("nats-{index}"),
            log: home.join("log"),
            program: program.to_owned(),
            other: None,
            arguments,
            child: None,
        })
    }

    /// A process of comfyd, with folders of its own.
    pub(crate) fn comfyd(kind: Kind, (program, other): (PathBuf, Option<PathBuf>), base: &Path, name: &str, arguments: &[&str]) -> Self {
        let folder = base.join(name).display().to_string();
        let more = ["--base-directory", &folder, "--verbose", "WARNING"];
        let arguments = arguments.iter().chain(&more).map(|argument| (*argument).to_owned()).collect();
        Self { kind, name: name.to_owned(), log: base.join(format!("{name}.log")), program, other, arguments, child: None }
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        if self.child.is_some() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        let child = command.args(&self.arguments).env_remove("COMFYD_CONFIG").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(child.spawn().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?);
        Ok(())
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
            if let Some(other) = &mut self.other {
                std::mem::swap(&mut self.program, other);
            }
        }
        Ok(())
    }

    /// Stops it where it is: its connections stay, and nobody answers.
    pub(crate) fn pause(&self) -> io::Result<()> {
        self.signal("-STOP")
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> io::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        Command::new("kill").args([signal, &child.id().to_string()]).status().map(drop)
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let ended = child.try_wait()?;
        if ended.is_some() {
            self.child = None;
        }
        Ok(ended)
    }
}
