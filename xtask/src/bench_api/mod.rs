//! `cargo xtask bench-api`: how fast the server answers, beside a ComfyUI if one is given. Starts the release build on a new, empty folder,
//! asks both servers in turn, and prints the best of several rounds as a table. Knows the API, not how a server works.

mod prompts;
mod sockets;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use self::prompts::{prompt, small_prompt};
use crate::http::Connection;
use crate::server::{Server, measured_commands};

const USAGE: &str =
    "usage: cargo xtask bench-api [--reference URL | --reference-command COMMAND] [--server COMMAND] [--seconds N] [--rounds N]

  --reference URL           a ComfyUI that runs already and has nothing else to do, to compare with
  --reference-command CMD   starts a ComfyUI; {port} and {base} become a free port and an empty folder, for example
                            '/opt/ComfyUI/venv/bin/python /opt/ComfyUI/main.py --cpu --port {port} --base-directory {base}'
  --server CMD              the server to measure in place of this project's release build
  --seconds N               how long each figure is measured in a round (2)
  --rounds N                how many rounds are measured; the best one counts (3)";

/// Connections that ask at the same time.
const CONNECTIONS: usize = 8;
/// Entries of the history that is asked for.
const HISTORY: usize = 1_200;
/// Side of the picture that previews are made of, in pixels.
const PICTURE: u32 = 1024;

/// The figures per second, in the order of the table: what, path.
const READS: [(&str, &str); 4] = [
    ("GET /object_info", "/object_info"),
    ("GET /history, 1,200 entries", "/history"),
    ("GET /system_stats", "/system_stats"),
    ("GET /view, preview=webp, 1024x1024", ""),
];

struct Arguments {
    reference: Option<String>,
    reference_command: Option<String>,
    server: Option<String>,
    seconds: u64,
    rounds: usize,
}

fn arguments(given: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments { reference: None, reference_command: None, server: None, seconds: 2, rounds: 3 };
    let mut given = given.iter();
    while let Some(name) = given.next() {
        let value = given.next().ok_or(USAGE)?.clone();
        match name.as_str() {
            "--reference" => arguments.reference = Some(value),
            "--reference-command" => arguments.reference_command = Some(value),
            "--server" => arguments.server = Some(value),
            "--seconds" => arguments.seconds = value.parse().map_err(|_| USAGE)?,
            "--rounds" => arguments.rounds = value.parse().map_err(|_| USAGE)?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(arguments)
}

/// Runs the command.
pub(crate) fn run(root: &Path, given: &[String]) -> Result<(), String> {
    let arguments = arguments(given)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(measure(root, &arguments)).map_err(|error| error.to_string())
}

/// One server's figures.
#[derive(Default)]
struct Figures {
    first_answer_ms: Option<f64>,
    idle_mb: Option<f64>,
    /// Per second, the best of all rounds: small prompts, `POST /prompt`, then [`READS`].
    rates: [f64; 2 + READS.len()],
}

async fn measure(root: &Path, arguments: &Arguments) -> io::Result<()> {
    let commands = measured_commands(root, arguments.server.as_ref(), arguments.reference_command.as_ref())?;
    let mut measured: Vec<(Server, Figures)> = Vec::new();
    for (name, command) in commands {
        let mut figures = Figures::default();
        // The first start also reads the program from the disk.
        for _ in 0..3 {
            let server = Server::start(name, &command).await?;
            let ms = server.first_answer.map(|time| time.as_secs_f64() * 1e3);
            figures.first_answer_ms = [figures.first_answer_ms, ms].into_iter().flatten().reduce(f64::min);
        }
        let server = Server::start(name, &command).await?;
        figures.idle_mb = server.idle_memory().await.map(|bytes| bytes as f64 / 1e6);
        measured.push((server, figures));
    }
    measured.extend(arguments.reference.as_deref().map(|url| (Server::running("reference", url), Figures::default())));
    for (server, _) in &measured {
        prepare(&server.host).await?;
    }
    for round in 0..arguments.rounds {
        for (server, figures) in &mut measured {
            eprintln!("round {} of {}: {}", round + 1, arguments.rounds, server.name);
            let rates = round_of(&server.host, Duration::from_secs(arguments.seconds), round as u32).await?;
            for (best, rate) in figures.rates.iter_mut().zip(rates) {
                *best = best.max(rate);
            }
        }
    }
    print(&measured);
    let (server, _) = &measured[0];
    let outcome = sockets::measure(&server.host).await?;
    println!(
        "\n1,000 idle and 200 active websocket clients: connected in {:.1} s; 1,000 prompts and {} events in {:.1} s; {} clients lost events; \
         {:.0} MB resident",
        outcome.connected.as_secs_f64(),
        outcome.events,
        outcome.ran.as_secs_f64(),
        outcome.lost.len(),
        server.memory().unwrap_or(0) as f64 / 1e6,
    );
    match outcome.lost.first() {
        Some(first) => Err(io::Error::other(first.clone())),
        None => Ok(()),
    }
}

fn print(measured: &[(Server, Figures)]) {
    let mut rows: Vec<(&str, bool, Vec<Option<f64>>)> = vec![
        ("start to first answer, ms", false, measured.iter().map(|(_, figures)| figures.first_answer_ms).collect()),
        ("resident when idle, MB", false, measured.iter().map(|(_, figures)| figures.idle_mb).collect()),
    ];
    let names = ["small prompts run", "POST /prompt"].into_iter().chain(READS.iter().map(|(name, _)| *name));
    for (at, name) in names.enumerate() {
        rows.push((name, true, measured.iter().map(|(_, figures)| Some(figures.rates[at])).collect()));
    }
    let head: Vec<&str> = measured.iter().map(|(server, _)| server.name).collect();
    let ratio = if measured.len() > 1 { (" ratio |", "---:|") } else { ("", "") };
    println!("| figure (per second unless noted) | {} |{}", head.join(" | "), ratio.0);
    println!("|---|{}{}", "---:|".repeat(measured.len()), ratio.1);
    for (name, more_is_better, values) in rows {
        let shown: Vec<String> = values.iter().map(|value| value.map_or("–".into(), |value| format!("{value:.0}"))).collect();
        let ratio = match values[..] {
            [Some(own), Some(other)] => format!(" {:.1} |", if more_is_better { own / other } else { other / own }),
            [_, _] => " – |".into(),
            _ => String::new(),
        };
        println!("| {name} | {} |{ratio}", shown.join(" | "));
    }
}

/// Saves the picture that previews are made of.
async fn prepare(host: &str) -> io::Result<()> {
    let mut connection = Connection::open(host).await?;
    connection.post("/prompt", &prompt(0x33_66_99, PICTURE, "bench_view", "bench")).await?;
    wait_until_idle(&mut connection).await
}

async fn wait_until_idle(connection: &mut Connection) -> io::Result<()> {
    loop {
        let answer: Value = serde_json::from_slice(&connection.get("/prompt").await?)?;
        if answer["exec_info"]["queue_remaining"] == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn round_of(host: &str, time: Duration, round: u32) -> io::Result<[f64; 2 + READS.len()]> {
    let mut connection = Connection::open(host).await?;
    let mut rates = [0.0; 2 + READS.len()];
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < time {
        // Colours of other rounds and of other runs must not be in the cache.
        for _ in 0..200 {
            connection.post("/prompt", &small_prompt(round * 1_000_000 + sent, "bench")).await?;
            sent += 1;
        }
        wait_until_idle(&mut connection).await?;
    }
    rates[0] = f64::from(sent) / began.elapsed().as_secs_f64();
    connection.post("/history", "{\"clear\": true}").await?;
    // The same prompt again and again: its results are cached, so that accepting it is most of the work.
    let began = Instant::now();
    let mut posting = JoinSet::new();
    for _ in 0..CONNECTIONS {
        posting.spawn(post_many(host.to_owned(), HISTORY / CONNECTIONS));
    }
    while let Some(ended) = posting.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    rates[1] = HISTORY as f64 / began.elapsed().as_secs_f64();
    wait_until_idle(&mut connection).await?;
    for (at, (_, path)) in READS.iter().enumerate() {
        let view = "/view?filename=bench_view_00001_.png&preview=webp";
        rates[2 + at] = read_rate(host, if path.is_empty() { view } else { path }, time).await?;
    }
    Ok(rates)
}

async fn post_many(host: String, count: usize) -> io::Result<()> {
    let mut connection = Connection::open(&host).await?;
    let body = small_prompt(0, "bench");
    for _ in 0..count {
        connection.post("/prompt", &body).await?;
    }
    Ok(())
}

/// How often a second a path is answered.
async fn read_rate(host: &str, path: &str, time: Duration) -> io::Result<f64> {
    let began = Instant::now();
    let mut reading = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (host, path) = (host.to_owned(), path.to_owned());
        reading.spawn(async move {
            let mut connection = Connection::open(&host).await?;
            let mut count = 0u32;
            while began.elapsed() < time {
                connection.get(&path).await?;
                count += 1;
            }
            Ok::<_, io::Error>(count)
        });
    }
    let mut count = 0;
    while let Some(ended) = reading.join_next().await {
        count += ended.map_err(io::Error::other)??;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}
