//! `cargo xtask bench-engine`: how fast the engine makes a picture, beside a ComfyUI if one is given: the recorded case txt2img/256 on the
//! full-size test checkpoint of Stable Diffusion 1.5. Starts both servers, asks them in turn, tells the stages apart by the events on the
//! websocket, and prints a table. Knows the API, not how a server works.

use std::io;
use std::path::Path;
use std::time::Instant;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::http::Connection;
use crate::parity;
use crate::server::{Server, measured_commands};

const USAGE: &str = "usage: cargo xtask bench-engine [--reference-command COMMAND] [--server COMMAND] [--case NAME] [--size PIXELS] [--steps N] [--rounds N]

  --reference-command CMD   starts a ComfyUI; {port} and {base} become a free port and an empty folder, for example
                            '/opt/ComfyUI/venv/bin/python /opt/ComfyUI/main.py --cpu --port {port} --base-directory {base}'
  --server CMD              the server to measure in place of this project's release build
  --case NAME               the case in conformance/diffusion/cases.json (txt2img/256)
  --size PIXELS             the sides of its picture in place of the case's
  --steps N                 its steps in place of the case's; of a card, which is asked in advance, few say little
  --rounds N                how often the case runs once all is loaded; medians count (3)";

struct Arguments {
    reference_command: Option<String>,
    server: Option<String>,
    case: String,
    size: Option<u64>,
    steps: Option<u64>,
    rounds: u64,
}

fn arguments(given: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments { reference_command: None, server: None, case: "txt2img/256".into(), size: None, steps: None, rounds: 3 };
    let mut given = given.iter();
    while let Some(name) = given.next() {
        let value = given.next().ok_or(USAGE)?.clone();
        match name.as_str() {
            "--reference-command" => arguments.reference_command = Some(value),
            "--server" => arguments.server = Some(value),
            "--case" => arguments.case = value,
            "--size" => arguments.size = Some(value.parse().map_err(|_| USAGE)?),
            "--steps" => arguments.steps = Some(value.parse().map_err(|_| USAGE)?),
            "--rounds" => arguments.rounds = value.parse().ok().filter(|rounds| *rounds > 0).ok_or(USAGE)?,
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

async fn measure(root: &Path, arguments: &Arguments) -> io::Result<()> {
    let cases: Value = serde_json::from_slice(&std::fs::read(root.join("conformance/diffusion/cases.json"))?)?;
    let mut workflow = cases[&arguments.case]["workflow"].clone();
    let Some(nodes) = workflow.as_object_mut() else { return Err(io::Error::other(format!("there is no case '{}'", arguments.case))) };
    for inputs in nodes.values_mut().map(|node| &mut node["inputs"]) {
        for (name, value) in [("width", arguments.size), ("height", arguments.size), ("steps", arguments.steps)] {
            if let (Some(value), true) = (value, inputs[name].is_u64()) {
                inputs[name] = value.into();
            }
        }
    }
    let checkpoint = parity::checkpoint(root, "sd15")?;
    let paths = parity::model_paths(root)?;
    let commands = measured_commands(root, arguments.server.as_ref(), arguments.reference_command.as_ref())?;

    // Else the first server would read the checkpoint from the disk for the other one.
    io::copy(&mut std::fs::File::open(&checkpoint)?, &mut io::sink())?;
    let mut measured = Vec::new();
    for (name, command) in commands {
        let server = Server::start(name, &format!("{command} --extra-model-paths-config {}", paths.display())).await?;
        eprintln!("{name}: first prompt");
        let cold = prompt(&server.host, &workflow, 0).await?;
        measured.push((server, cold, Vec::new()));
    }
    for round in 1..=arguments.rounds {
        for (server, _, warm) in &mut measured {
            eprintln!("round {round} of {}: {}", arguments.rounds, server.name);
            warm.push(prompt(&server.host, &workflow, round).await?);
        }
    }
    let figures: Vec<Figures> = measured.iter().map(|(server, cold, warm)| Figures::of(server, cold, warm)).collect();
    print(&measured.iter().map(|(server, ..)| server.name).collect::<Vec<_>>(), &figures);
    Ok(())
}

/// One run of the workflow, in seconds.
#[derive(Default)]
struct Stages {
    /// From the start to the first step's end.
    first_step: f64,
    /// Between the ends of steps.
    step: f64,
    text: f64,
    decode: f64,
    save: f64,
    total: f64,
}

/// Runs the workflow with other texts and another seed in each round, so that nothing but the loaded models is reused.
async fn prompt(host: &str, workflow: &Value, round: u64) -> io::Result<Stages> {
    let mut workflow = workflow.clone();
    let nodes = workflow.as_object_mut().ok_or_else(|| io::Error::other("the workflow is no object"))?;
    for node in nodes.values_mut() {
        let inputs = &mut node["inputs"];
        if let Some(text) = inputs["text"].as_str() {
            inputs["text"] = format!("{text} {round}").into();
        }
        if let Some(seed) = inputs["seed"].as_u64() {
            inputs["seed"] = (seed + round).into();
        }
    }
    let class = |node: &str| workflow[node]["class_type"].as_str().unwrap_or_default().to_owned();
    let client = format!("bench-{round}");
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{host}/ws?clientId={client}")).await.map_err(io::Error::other)?;
    let body = json!({"prompt": workflow, "client_id": client}).to_string();
    Connection::open(host).await?.post("/prompt", &body).await?;

    let mut stages = Stages::default();
    let mut began = Instant::now();
    let mut running: Option<(String, Instant)> = None;
    // Which step, since a server need not tell of each, and when.
    let mut steps: Vec<(f64, Instant)> = Vec::new();
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message.map_err(io::Error::other)? else { continue };
        let message: Value = serde_json::from_str(text.as_str())?;
        let now = Instant::now();
        let data = &message["data"];
        match message["type"].as_str().unwrap_or_default() {
            "execution_start" => began = now,
            "progress" if running.as_ref().is_some_and(|(class, _)| class == "KSampler") => {
                steps.push((data["value"].as_f64().unwrap_or_default(), now))
            }
            "execution_error" => return Err(io::Error::other(format!("the prompt failed: {data}"))),
            "executing" => {
                if let Some((class, since)) = running.take() {
                    let time = (now - since).as_secs_f64();
                    match class.as_str() {
                        "CLIPTextEncode" => stages.text += time,
                        "VAEDecode" => stages.decode += time,
                        "SaveImage" => stages.save += time,
                        _ => {}
                    }
                }
                match data["node"].as_str() {
                    Some(node) => running = Some((class(node), now)),
                    None => {
                        stages.total = (now - began).as_secs_f64();
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    let (Some((from, first)), Some((to, last))) = (steps.first(), steps.last()) else {
        return Err(io::Error::other("the prompt made no step"));
    };
    stages.first_step = (*first - began).as_secs_f64();
    stages.step = (*last - *first).as_secs_f64() / (to - from).max(1.0);
    Ok(stages)
}

/// A server's column of the table; seconds and megabytes.
struct Figures([Option<f64>; ROWS.len()]);

const ROWS: [&str; 8] = [
    "load, s (what the first prompt takes longer than later ones up to its first step)",
    "text encoding, s (two prompts)",
    "step, s",
    "decode, s",
    "save, s",
    "first prompt, s",
    "later prompts, s",
    "peak memory, MB",
];

impl Figures {
    fn of(server: &Server, cold: &Stages, warm: &[Stages]) -> Self {
        let median = |of: &dyn Fn(&Stages) -> f64| {
            let mut values: Vec<f64> = warm.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self([
            Some(cold.first_step - median(&|stages| stages.first_step)),
            Some(median(&|stages| stages.text)),
            Some(median(&|stages| stages.step)),
            Some(median(&|stages| stages.decode)),
            Some(median(&|stages| stages.save)),
            Some(cold.total),
            Some(median(&|stages| stages.total)),
            server.peak_memory().map(|bytes| bytes as f64 / 1e6),
        ])
    }
}

fn print(names: &[&str], figures: &[Figures]) {
    let ratio = if names.len() > 1 { (" comfyd / reference |", "---:|") } else { ("", "") };
    println!("| figure | {} |{}", names.join(" | "), ratio.0);
    println!("|---|{}{}", "---:|".repeat(names.len()), ratio.1);
    for (row, name) in ROWS.iter().enumerate() {
        let values: Vec<Option<f64>> = figures.iter().map(|figures| figures.0[row]).collect();
        let shown: Vec<String> = values.iter().map(|value| value.map_or("–".into(), rounded)).collect();
        let ratio = match values[..] {
            [Some(own), Some(other)] => format!(" {:.2} |", own / other),
            [_, _] => " – |".into(),
            _ => String::new(),
        };
        println!("| {name} | {} |{ratio}", shown.join(" | "));
    }
}

fn rounded(value: f64) -> String {
    if value < 100.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}
