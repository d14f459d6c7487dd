//! `cargo xtask chaos`: a cluster on this machine, whose parts are killed and stopped at random under load, and a look at whether every
//! prompt that was accepted ends once, and every picture that was saved is there. Knows the command line and the API, not how either works.

mod part;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::part::{Kind, Part, free_ports};
use crate::http::Connection;

const USAGE: &str =
    "usage: cargo xtask chaos --rounds N [--binary FILE] [--binary-other FILE] [--nats FILE] [--seed N] [--servers N] [--workers N]

  --rounds N     how many times something is killed or stopped for a while
  --binary FILE  the program in place of this project's release build
  --binary-other FILE  another build: every other process runs it, and one that was killed starts again as the other of both
  --nats FILE    nats-server, if it is not in PATH
  --seed N       the same choices again
  --servers N    how many API servers (2)
  --workers N    how many workers (4)";

/// NATS servers.
const NODES: usize = 3;
/// Clients that send prompts.
const CLIENTS: usize = 4;
/// How long a client rests between two prompts.
const PACE: Duration = Duration::from_millis(120);
/// Clients rest while more prompts wait than this.
const MOST_WAITING: u64 = 200;
/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long a process that is not heard of has lost what it ran. Some stops are longer.
const LEASE_SECONDS: &str = "3";
/// How long a part may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// How long everything that was accepted may take when nothing is disturbed any more.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(180);

/// What clients were answered.
#[derive(Default)]
struct Ledger {
    accepted: Mutex<Vec<String>>,
    refused: AtomicU64,
    unanswered: AtomicU64,
    faults: Mutex<Vec<String>>,
    waiting: AtomicU64,
    stop: AtomicBool,
}

/// How prompts ended, as it was found in the history.
#[derive(Default)]
struct Ends {
    ends: HashMap<String, String>,
    given_up: u64,
    failed: Vec<String>,
    doubled: Vec<String>,
    /// Where the pictures are that were saved.
    pictures: Vec<String>,
    missing: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(root: &Path, given: &[String]) -> Result<(), String> {
    let (mut rounds, mut seed, mut servers, mut workers) = (None, 1, 2, 4);
    let (mut binary, mut other, mut nats) = (None, None, PathBuf::from("nats-server"));
    let mut given = given.iter();
    while let Some(name) = given.next() {
        let value = given.next().ok_or(USAGE)?;
        let number = || value.parse::<u64>().map_err(|_| USAGE);
        match name.as_str() {
            "--rounds" => rounds = Some(number()?),
            "--binary" => binary = Some(PathBuf::from(value)),
            "--binary-other" => other = Some(PathBuf::from(value)),
            "--nats" => nats = PathBuf::from(value),
            "--seed" => seed = number()?,
            "--servers" => servers = number()?.max(1),
            "--workers" => workers = number()?.max(1),
            _ => return Err(USAGE.into()),
        }
    }
    let rounds = rounds.ok_or(USAGE)?;
    let program = |file: PathBuf| file.canonicalize().map_err(|error| format!("{}: {error}", file.display()));
    let binary = match binary {
        Some(binary) => program(binary)?,
        None => crate::torture::release(root).map_err(|error| error.to_string())?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let builds = Builds { one: binary, other: other.map(program).transpose()? };
    let mut chaos = Chaos::new(&builds, &nats, seed, servers, workers).map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(chaos.run(rounds));
    let faults = outcome.map_err(|error| format!("{error}\n{}", chaos.logs()))?;
    if faults.is_empty() { Ok(()) } else { Err(format!("{}\n{}", faults.join("\n"), chaos.logs())) }
}

/// The programs that run.
struct Builds {
    one: PathBuf,
    other: Option<PathBuf>,
}

impl Builds {
    /// What the part of this number runs first, and after it was killed.
    fn of(&self, index: usize) -> (PathBuf, Option<PathBuf>) {
        match &self.other {
            Some(other) if index % 2 == 1 => (other.clone(), Some(self.one.clone())),
            other => (self.one.clone(), other.clone()),
        }
    }
}

struct Chaos {
    base: PathBuf,
    parts: Vec<Part>,
    hosts: Vec<String>,
    ledger: Arc<Ledger>,
    ends: Ends,
    dice: Dice,
    /// Kills and stops of NATS servers, API servers and workers, and how often NATS had no majority.
    done: HashMap<(Kind, &'static str), u64>,
}

impl Chaos {
    fn new(builds: &Builds, nats: &Path, seed: u64, servers: u64, workers: u64) -> io::Result<Self> {
        let base = std::env::temp_dir().join(format!("comfyd-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&base)?;
        let ports = free_ports(2 * NODES + usize::try_from(servers).map_err(io::Error::other)?)?;
        let (nats_ports, api_ports) = ports.split_at(2 * NODES);
        let addresses: Vec<String> = nats_ports[..NODES].iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut parts = Vec::new();
        for index in 0..NODES {
            parts.push(Part::nats(nats, &base, index, nats_ports)?);
        }
        let cluster = ["--cluster", &addresses.join(","), "--lease", LEASE_SECONDS, "--max-tries", "0", "--device", "cpu"];
        for (index, port) in api_ports.iter().enumerate() {
            let mut arguments = vec!["serve", "--no-workers", "--listen", "127.0.0.1", "--front-end", "none", "--port"];
            let port = port.to_string();
            arguments.push(&port);
            arguments.extend(cluster);
            parts.push(Part::comfyd(Kind::Api, builds.of(index), &base, &format!("api-{port}"), &arguments));
        }
        for index in 0..usize::try_from(workers).map_err(io::Error::other)? {
            let arguments: Vec<&str> = ["worker"].into_iter().chain(cluster).collect();
            parts.push(Part::comfyd(Kind::Worker, builds.of(index), &base, &format!("worker-{index}"), &arguments));
        }
        let hosts = api_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Ok(Self { base, parts, hosts, ledger: Arc::default(), ends: Ends::default(), dice: Dice(seed.max(1)), done: HashMap::new() })
    }

    async fn run(&mut self, rounds: u64) -> io::Result<Vec<String>> {
        let nodes = self.parts.iter_mut().filter(|part| part.kind == Kind::Nats);
        for part in nodes {
            part.start()?;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        for part in self.parts.iter_mut().filter(|part| part.kind != Kind::Nats) {
            part.start()?;
        }
        for host in self.hosts.clone() {
            answers(&host).await?;
        }
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            tasks.spawn(submit(self.hosts.clone(), client, self.ledger.clone()));
        }
        tasks.spawn(watch(self.hosts.clone(), self.ledger.clone()));
        for round in 0..rounds {
            self.round().await?;
            if round % 10 == 9 {
                self.look().await;
                eprintln!(
                    "round {} of {rounds}: {} accepted, {} found",
                    round + 1,
                    lock(&self.ledger.accepted).len(),
                    self.ends.ends.len()
                );
            }
        }
        for part in &mut self.parts {
            part.resume()?;
            part.start()?;
        }
        self.ledger.stop.store(true, Ordering::Relaxed);
        while tasks.join_next().await.is_some() {}
        let disturbed = began.elapsed();
        for host in self.hosts.clone() {
            answers(&host).await?;
        }
        let drain = Instant::now();
        while drain.elapsed() < DRAIN_TIMEOUT {
            self.look().await;
            let accepted = lock(&self.ledger.accepted).clone();
            if accepted.iter().all(|id| self.ends.ends.contains_key(id)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Nothing that ended changes any more, whoever comes late.
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.look().await;
        self.look_for_pictures().await;
        Ok(self.report(disturbed))
    }

    /// Kills something, or stops it for a while, and starts it again.
    async fn round(&mut self) -> io::Result<()> {
        let at = self.dice.below(self.parts.len());
        let pause = Duration::from_millis(200 + self.dice.roll(1_500));
        let kills = self.dice.roll(2) == 0;
        // Now and then NATS has no majority.
        let also = (self.parts[at].kind == Kind::Nats && self.dice.roll(4) == 0).then(|| (0..NODES).find(|other| *other != at)).flatten();
        let victims: Vec<usize> = [at].into_iter().chain(also).collect();
        for victim in &victims {
            let part = &mut self.parts[*victim];
            if kills { part.kill()? } else { part.pause()? }
        }
        let what = match (kills, victims.len() > 1) {
            (_, true) => "without a majority",
            (true, false) => "killed",
            (false, false) => "stopped",
        };
        *self.done.entry((self.parts[at].kind, what)).or_default() += 1;
        // Some stops are longer than a lease.
        let length = if self.dice.roll(4) == 0 { Duration::from_millis(3_500 + self.dice.roll(2_500)) } else { pause };
        tokio::time::sleep(length).await;
        for victim in victims {
            let part = &mut self.parts[victim];
            if kills { part.start()? } else { part.resume()? }
        }
        for part in &mut self.parts {
            if let Some(status) = part.ended()? {
                lock(&self.ledger.faults).push(format!("{} ended by itself: {status}", part.name));
                part.start()?;
            }
        }
        tokio::time::sleep(Duration::from_millis(300 + self.dice.roll(1_200))).await;
        Ok(())
    }

    /// Reads the history of whichever server answers.
    async fn look(&mut self) {
        for host in &self.hosts {
            let read = async {
                let mut connection = Connection::open(host).await?;
                serde_json::from_slice::<Value>(&connection.get("/history").await?).map_err(io::Error::other)
            };
            if let Ok(Ok(history)) = tokio::time::timeout(PATIENCE, read).await {
                self.ends.take(&history);
            }
        }
    }

    /// Asks each server for its share of the pictures.
    async fn look_for_pictures(&mut self) {
        let shares = self.ends.pictures.len().div_ceil(self.hosts.len()).max(1);
        for (host, pictures) in self.hosts.iter().zip(self.ends.pictures.chunks(shares)) {
            for picture in pictures {
                let read = async { Connection::open(host).await?.get(picture).await };
                if !matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(bytes)) if bytes.starts_with(b"\x89PNG")) {
                    self.ends.missing.push(picture.clone());
                }
            }
        }
    }

    /// Prints the figures, and gives what must not be.
    fn report(&self, disturbed: Duration) -> Vec<String> {
        let accepted = lock(&self.ledger.accepted).clone();
        let lost: Vec<&String> = accepted.iter().filter(|id| !self.ends.ends.contains_key(*id)).collect();
        let count = |kind, what| self.done.get(&(kind, what)).copied().unwrap_or(0);
        println!("time                {:.0} s", disturbed.as_secs_f64());
        for (kind, name) in [(Kind::Nats, "NATS servers"), (Kind::Api, "API servers"), (Kind::Worker, "workers")] {
            println!("{name:<19} {} killed, {} stopped for a while", count(kind, "killed"), count(kind, "stopped"));
        }
        println!("no majority         {} times", count(Kind::Nats, "without a majority"));
        println!("prompts accepted    {}", accepted.len());
        let (refused, unanswered) = (self.ledger.refused.load(Ordering::Relaxed), self.ledger.unanswered.load(Ordering::Relaxed));
        println!("                    {refused} refused with 503, {unanswered} not answered");
        println!("prompts finished    {}, of which {} were given up", accepted.len() - lost.len(), self.ends.given_up);
        println!("prompts lost        {}", lost.len());
        println!("prompts doubled     {}", self.ends.doubled.len());
        println!("prompts failed      {}", self.ends.failed.len());
        println!("pictures saved      {}, of which {} are missing", self.ends.pictures.len(), self.ends.missing.len());
        let mut faults = lock(&self.ledger.faults).clone();
        if !lost.is_empty() {
            faults.push(format!("lost: {lost:?}"));
        }
        for (what, which) in [("doubled", &self.ends.doubled), ("failed", &self.ends.failed), ("missing", &self.ends.missing)] {
            if !which.is_empty() {
                faults.push(format!("{what}: {which:?}"));
            }
        }
        if accepted.is_empty() {
            faults.push("no prompt was accepted".to_owned());
        }
        faults
    }

    /// The end of what each said.
    fn logs(&self) -> String {
        let end = |part: &Part| {
            let log = std::fs::read_to_string(&part.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("-- {}\n{}\n", part.name, lines[lines.len().saturating_sub(12)..].join("\n"))
        };
        self.parts.iter().map(end).collect()
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        for part in &mut self.parts {
            // What ended by itself needs no end.
            drop(part.resume());
            drop(part.kill());
        }
        drop(std::fs::remove_dir_all(&self.base));
    }
}

impl Ends {
    fn take(&mut self, history: &Value) {
        for (id, entry) in history.as_object().into_iter().flatten() {
            let end = entry["status"]["messages"].to_string();
            match self.ends.get(id) {
                Some(before) if *before != end => self.doubled.push(id.clone()),
                Some(_) => {}
                None => {
                    let given_up = end.contains("ServerCrashed");
                    self.given_up += u64::from(given_up);
                    let picture = &entry["outputs"]["3"]["images"][0];
                    match picture["filename"].as_str() {
                        Some(name) => self.pictures.push(format!("/view?type=output&filename={name}")),
                        None if given_up => {}
                        None => self.failed.push(format!("{id} {end}")),
                    }
                    self.ends.insert(id.clone(), end);
                }
            }
        }
    }
}

async fn answers(host: &str) -> io::Result<()> {
    let began = Instant::now();
    while began.elapsed() < START_TIMEOUT {
        let ask = async { Connection::open(host).await?.get("/prompt").await };
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), ask).await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(io::Error::other(format!("the server at {host} did not answer")))
}

/// Sends prompts, to whichever server answers, until it is told to stop.
async fn submit(hosts: Vec<String>, client: usize, ledger: Arc<Ledger>) {
    let mut at = client;
    for n in 0_u64.. {
        while ledger.waiting.load(Ordering::Relaxed) > MOST_WAITING && !ledger.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
        }
        if ledger.stop.load(Ordering::Relaxed) {
            return;
        }
        let id = format!("{:08x}-0000-4000-8000-{n:012x}", client + 1);
        let side = if n % 10 == 0 { 512 } else { 32 };
        let graph = json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": n % 0xff_ffff}},
            "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 5, "sigma": 1.0}},
            "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "chaos"}},
        });
        let body = json!({"prompt": graph, "prompt_id": id}).to_string();
        let host = &hosts[at % hosts.len()];
        let ask = async { Connection::open(host).await?.post("/prompt", &body).await };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(Ok(_answer)) => lock(&ledger.accepted).push(id),
            Ok(Err(error)) if error.to_string().contains(" 503 ") => {
                ledger.refused.fetch_add(1, Ordering::Relaxed);
                at += 1;
            }
            Ok(Err(error)) if error.to_string().contains("HTTP/1.1") => lock(&ledger.faults).push(error.to_string()),
            // It may be accepted or not: nobody was told.
            Ok(Err(_)) | Err(_) => {
                ledger.unanswered.fetch_add(1, Ordering::Relaxed);
                at += 1;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Asks how many wait.
async fn watch(hosts: Vec<String>, ledger: Arc<Ledger>) {
    while !ledger.stop.load(Ordering::Relaxed) {
        for host in &hosts {
            let ask = async { Connection::open(host).await?.get("/prompt").await };
            if let Ok(Ok(body)) = tokio::time::timeout(Duration::from_secs(2), ask).await {
                let waiting = serde_json::from_slice::<Value>(&body).ok().and_then(|body| body["exec_info"]["queue_remaining"].as_u64());
                ledger.waiting.store(waiting.unwrap_or(0), Ordering::Relaxed);
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A panic of another task has failed the run already.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

    fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll(sides as u64)).unwrap_or(0)
    }
}
