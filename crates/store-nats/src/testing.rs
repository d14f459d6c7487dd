//! NATS servers on this machine, for tests: one, or a cluster of several. Where the program is, whoever runs them knows.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long they have to answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Servers that end with this.
#[derive(Debug)]
pub struct Servers {
    program: PathBuf,
    folder: PathBuf,
    /// For clients and for each other.
    ports: Vec<(u16, u16)>,
    running: Vec<Option<Child>>,
    more: String,
}

impl Servers {
    /// Starts so many, which keep their files in this folder. `more` is appended to the configuration of each.
    ///
    /// # Errors
    /// When the program cannot be started, or does not answer.
    pub fn start(program: &Path, folder: &Path, many: usize, more: &str) -> io::Result<Self> {
        // All at once, so that no two are the same.
        let bound: Vec<TcpListener> = (0..2 * many).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
        let free: Vec<u16> = bound.iter().map(|port| Ok(port.local_addr()?.port())).collect::<io::Result<_>>()?;
        drop(bound);
        let ports: Vec<(u16, u16)> = free.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let running = (0..many).map(|_| None).collect();
        let mut servers = Self { program: program.to_owned(), folder: folder.to_owned(), ports, running, more: more.to_owned() };
        for index in 0..many {
            servers.restart(index)?;
        }
        servers.answer()?;
        Ok(servers)
    }

    /// Where clients find them.
    pub fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|(port, _)| format!("nats://127.0.0.1:{port}")).collect()
    }

    /// Ends one without warning.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.running[index].take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Starts one again that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, index: usize) -> io::Result<()> {
        let (port, route) = self.ports[index];
        let home = self.folder.join(format!("nats-{index}"));
        std::fs::create_dir_all(&home)?;
        let mut text = format!(
            "listen: 127.0.0.1:{port}\nserver_name: n{index}\njetstream {{ store_dir: {:?}, max_mem: 256M, max_file: 4G }}\n{}\n",
            home.display().to_string(),
            self.more
        );
        if self.ports.len() > 1 {
            let others = self.ports.iter().map(|(_, route)| format!("nats-route://127.0.0.1:{route}")).collect::<Vec<_>>().join(", ");
            text.push_str(&format!("cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{others}] }}\n"));
        }
        let config = home.join("nats.conf");
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(home.join("log"))?;
        let child = Command::new(&self.program).arg("-c").arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.running[index] = Some(child);
        Ok(())
    }

    /// Waits until all take connections.
    ///
    /// # Errors
    /// When one does not for long.
    pub fn answer(&self) -> io::Result<()> {
        let began = Instant::now();
        for index in 0..self.ports.len() {
            // Its log tells. Whoever asked the port before anybody listens could be connected to himself, and then has the port.
            let log = self.folder.join(format!("nats-{index}/log"));
            loop {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                if text.contains("Server is ready") {
                    break;
                }
                if began.elapsed() > START_TIMEOUT {
                    return Err(io::Error::other(format!("nats-server does not answer: {text}")));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for index in 0..self.running.len() {
            self.kill(index);
        }
    }
}
