//! `cargo xtask torture`: ends the server over and over without warning, under load, while it stops and while it starts, and looks whether
//! anything that it had promised is missing. Knows the API and the names of the folders, not how the server works.

mod abuse;
mod audit;
mod hunger;
mod limits;
mod load;

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use self::audit::Findings;
use self::limits::Limits;
use self::load::{Ledger, lock};
use crate::http::Connection;
use crate::server::{cargo, memory_of};

const USAGE: &str = "usage: cargo xtask torture [--minutes N | --seconds N] [--binary FILE] [--seed N] [--disk-full yes]
                           [--devices LIST] [--address-space MB] [--group MB] [--control-ms N]

  --minutes N, --seconds N  how long (1 minute)
  --binary FILE             the program in place of this project's release build
  --seed N                  the same kills again, as far as the machine does the same
  --devices LIST            what runs prompts (auto): cpu,cpu has two run at once
  --disk-full yes           on a small file system in memory that is full now and then; needs root, and Linux
  --address-space MB        with so much address space (`ulimit -v`), and clients that want far more memory than that
  --group MB                the same in a control group that gives so much memory; needs root, and Linux
  --control-ms N            how long 99 of 100 answers to `GET /queue` may take (100); 0: any time, for machines that are busy otherwise";

/// The size of that file system.
const DISK: &str = "size=512m";

/// What fills it.
const FILLER: &str = "filler";
/// Clients that send prompts.
const CLIENTS: usize = 4;
/// A server that has not answered by then never will.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long everything that was accepted may take when nobody sends any more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long 99 of 100 answers to `GET /queue` may take at most, in milliseconds.
const CONTROL_P99_MS: u64 = 100;

/// Runs the command.
pub(crate) fn run(root: &Path, given: &[String]) -> Result<(), String> {
    let (mut time, mut binary, mut seed, mut disk) = (Duration::from_secs(60), None, 1_u64, false);
    let (mut limits, mut control_ms, mut devices) = (Limits::default(), CONTROL_P99_MS, "auto".to_owned());
    let number = |value: &String| value.parse::<u64>().map_err(|_| USAGE);
    let mut given = given.iter();
    while let Some(name) = given.next() {
        let value = given.next().ok_or(USAGE)?;
        match name.as_str() {
            "--minutes" => time = Duration::from_secs(60 * number(value)?),
            "--seconds" => time = Duration::from_secs(number(value)?),
            "--binary" => binary = Some(PathBuf::from(value)),
            "--seed" => seed = number(value)?,
            "--devices" => devices.clone_from(value),
            "--address-space" => limits.address_space = Some(number(value)? << 20),
            "--group" => limits.group(number(value)? << 20).map_err(|error| error.to_string())?,
            "--control-ms" => control_ms = number(value)?,
            "--disk-full" if value == "yes" => disk = true,
            _ => return Err(USAGE.into()),
        }
    }
    let binary = binary.map_or_else(|| release(root), Ok).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let mut torture = Torture::new(binary, devices, seed, disk, limits, control_ms).map_err(|error| error.to_string())?;
    runtime.block_on(torture.run(time)).map_err(|error| format!("{error}\n{}", torture.log()))?;
    let faults = torture.report();
    if faults.is_empty() { Ok(()) } else { Err(format!("{}\n{}", faults.join("\n"), torture.log())) }
}

fn release(root: &Path) -> io::Result<PathBuf> {
    cargo(root, &["build", "--release", "-p", "comfyd"], &[])?;
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("release/comfyd").canonicalize()
}

struct Torture {
    binary: PathBuf,
    devices: String,
    base: PathBuf,
    port: u16,
    ledger: Arc<Ledger>,
    findings: Findings,
    dice: Dice,
    limits: Limits,
    control_ms: u64,
    /// The folder is a file system of its own, which may be filled.
    disk: bool,
    filled: u64,
    /// Kills under load, while it stopped and while it started.
    kills: [u64; 3],
    peak_bytes: u64,
    database: Option<String>,
}

impl Torture {
    fn new(binary: PathBuf, devices: String, seed: u64, disk: bool, limits: Limits, control_ms: u64) -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let base = std::env::temp_dir().join(format!("comfyd-torture-{}", std::process::id()));
        fs::create_dir_all(&base)?;
        if disk && !Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&base).status()?.success() {
            fs::remove_dir(&base)?;
            return Err(io::Error::other("a file system in memory could not be mounted: that needs root"));
        }
        let (ledger, findings) = (Arc::default(), Findings::default());
        Ok(Self {
            binary,
            devices,
            base,
            port,
            ledger,
            findings,
            dice: Dice(seed.max(1)),
            limits,
            control_ms,
            disk,
            filled: 0,
            kills: [0; 3],
            peak_bytes: 0,
            database: None,
        })
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn run(&mut self, time: Duration) -> io::Result<()> {
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            tasks.spawn(load::submit(self.host(), format!("c{client}"), self.ledger.clone()));
        }
        let control = load::watch(self.host(), self.ledger.clone())?;
        tasks.spawn(load::upload(self.host(), self.ledger.clone()));
        tasks.spawn(abuse::send_bad_input(self.host(), self.ledger.clone()));
        tasks.spawn(abuse::stay_silent(self.host(), self.ledger.clone()));
        if self.limits.any() {
            hunger::prepare(&self.base)?;
            tasks.spawn(hunger::want_memory(self.host(), self.ledger.clone()));
        }
        while began.elapsed() < time {
            self.round().await?;
        }
        self.ledger.stop.store(true, Ordering::Relaxed);
        let mut server = self.spawn()?;
        self.answers(&mut server).await?;
        while tasks.join_next().await.is_some() {}
        control.join().map_err(|_panic| io::Error::other("the client that asks for the queue has panicked"))?;
        let drain = Instant::now();
        loop {
            self.findings.audit(&self.host(), &self.base, &self.ledger).await?;
            if Findings::complete(&self.ledger) || drain.elapsed() > DRAIN_TIMEOUT {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.findings.look_at_assets(&self.host(), &self.ledger).await?;
        self.measure(&server);
        terminate(&server)?;
        server.wait()?;
        self.findings.look_at_rest(&self.base)?;
        let check = Command::new(&self.binary).args(["db", "check", "--base-directory"]).arg(&self.base).output()?;
        self.database = (!check.status.success()).then(|| String::from_utf8_lossy(&check.stderr).into_owned());
        Ok(())
    }

    /// Starts the server and ends it at some moment.
    async fn round(&mut self) -> io::Result<()> {
        let mut server = self.spawn()?;
        if self.dice.roll(8) == 0 {
            tokio::time::sleep(Duration::from_millis(self.dice.roll(60))).await;
            self.kills[2] += 1;
        } else {
            self.answers(&mut server).await?;
            self.findings.audit(&self.host(), &self.base, &self.ledger).await?;
            tokio::time::sleep(Duration::from_millis(100 + self.dice.roll(2_000))).await;
            if self.disk && self.dice.roll(3) == 0 {
                self.fill_disk().await?;
            }
            self.measure(&server);
            if let Some(status) = server.try_wait()? {
                self.ledger.fault(format!("the server ended by itself: {status}"));
            }
            if self.dice.roll(4) == 0 {
                terminate(&server)?;
                tokio::time::sleep(Duration::from_millis(self.dice.roll(100))).await;
                self.kills[1] += 1;
            } else {
                self.kills[0] += 1;
            }
        }
        server.kill()?;
        server.wait()?;
        // It may have ended on a full disk, and cannot start on one.
        drop(fs::remove_file(self.base.join(FILLER)));
        Ok(())
    }

    /// Leaves no room for a moment; in half of the cases still when the server is killed.
    async fn fill_disk(&mut self) -> io::Result<()> {
        let path = self.base.join(FILLER);
        let mut file = File::create(&path)?;
        let chunk = vec![0; 1 << 20];
        for size in [1 << 20, 4096, 1] {
            while io::Write::write_all(&mut file, &chunk[..size]).is_ok() {}
        }
        self.filled += 1;
        tokio::time::sleep(Duration::from_millis(500 + self.dice.roll(2_000))).await;
        if self.dice.roll(2) == 0 {
            fs::remove_file(&path)?;
            tokio::time::sleep(Duration::from_millis(500 + self.dice.roll(1_000))).await;
        }
        Ok(())
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.base.join("log"))?;
        let mut program = self.limits.command(&self.binary);
        program
            .args(["serve", "--front-end", "none", "--verbose", "WARNING", "--enable-assets", "--listen", "127.0.0.1"])
            .args(["--port", &self.port.to_string(), "--device", &self.devices, "--base-directory"])
            .arg(&self.base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    async fn answers(&self, server: &mut Child) -> io::Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_TIMEOUT {
            if let Some(status) = server.try_wait()? {
                return Err(io::Error::other(format!("the server ended at its start: {status}")));
            }
            if let Ok(mut connection) = Connection::open(&self.host()).await
                && connection.get("/prompt").await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(io::Error::other("the server did not answer after its start"))
    }

    fn measure(&mut self, server: &Child) {
        self.peak_bytes = self.peak_bytes.max(memory_of(server.id(), "VmHWM:").unwrap_or(0));
    }

    /// Prints the figures, and gives what must not be.
    fn report(&self) -> Vec<String> {
        let mut latencies = lock(&self.ledger.latencies).clone();
        latencies.sort_unstable();
        let at = |share: usize| f64::from(latencies.get(latencies.len() * share / 1000).copied().unwrap_or(0)) / 1000.0;
        let [load, stop, start] = self.kills;
        let Findings { found, given_up, assets, lost, doubled, half_written, .. } = &self.findings;
        let accepted = self.ledger.accepted.load(Ordering::Relaxed);
        let refused = self.ledger.refused.load(Ordering::Relaxed);
        println!("kills survived      {} ({load} under load, {stop} while it stopped, {start} while it started)", load + stop + start);
        println!("prompts accepted    {accepted}; {refused} refused, the disk was full {} times", self.filled);
        println!("prompts found       {found}, of which {given_up} were running at two kills");
        println!("assets found        {assets}");
        println!("lost                {}, doubled {}", lost.len(), doubled.len());
        println!("files half written  {}", half_written.len());
        println!("bad inputs refused  {}", self.ledger.bad.load(Ordering::Relaxed));
        println!("GET /queue, ms      {} answers: p50 {:.1}, p99 {:.1}, p99.9 {:.1}", latencies.len(), at(500), at(990), at(999));
        let words = self.limits.words();
        println!("peak memory         {} MB{}{words}", self.peak_bytes >> 20, if words.is_empty() { "" } else { " of " });
        let mut faults = self.findings.faults(&self.ledger);
        if self.control_ms > 0 && at(990) > self.control_ms as f64 {
            faults.push(format!("GET /queue takes {:.1} ms at p99: more than {} ms", at(990), self.control_ms));
        }
        if self.limits.killed() > 0 {
            faults.push(format!("the system ended the server {} times since it had no memory", self.limits.killed()));
        }
        faults.extend(lock(&self.ledger.faults).iter().cloned());
        faults.extend(self.database.clone());
        faults
    }

    /// The end of what the server said.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.base.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Torture {
    fn drop(&mut self) {
        if self.disk {
            drop(Command::new("umount").arg(&self.base).status());
        }
        drop(fs::remove_dir_all(&self.base));
    }
}

/// Asks a server to end. Without a signal of its own to send, the system's tool does.
fn terminate(server: &Child) -> io::Result<()> {
    Command::new("kill").args(["-TERM", &server.id().to_string()]).status().map(drop)
}

/// xorshift64: the same sequence everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}
