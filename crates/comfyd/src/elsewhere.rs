//! What other processes of a cluster have and this one has not: their models in what clients may choose from, and the classes of the ComfyUIs
//! beside them; and what they say that is no event of a prompt. Does not know how they are asked.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use comfyd_folders::Folders;
use comfyd_node::{Entry, Error, Result};
use comfyd_python::Ask;
use comfyd_server::{Hub, Metrics};
use comfyd_store_nats::{Ears, Member, NatsStore, Ran, Said, Told};
use serde_json::Value as Json;
use tokio::runtime::Handle;

use crate::beside::Beside;
use crate::cluster::LOOK;

/// How many different ComfyUIs of other hosts are listed: workers that are alike have the same one.
const MAX_AWAY: usize = 16;
/// How long a check of inputs on another host may take, the start of its ComfyUI included.
const CHECK: Duration = Duration::from_secs(150);
/// How often it is looked meanwhile whether it is still there.
const STILL_THERE: Duration = Duration::from_secs(1);
/// How many characters of a digest tell two ComfyUIs apart for people.
const SHORT: usize = 8;

/// A ComfyUI beside some workers: its name there, and what is told of its classes.
type Away = (Arc<str>, Told);

/// What is done with what other processes say besides events: clients are told, and runs of nodes are counted.
pub(crate) fn ears(hub: Hub, metrics: Metrics) -> Ears {
    Arc::new(move |said| match said {
        Said::Event { name, data, client, owner } => hub.event(&name, &data, client.as_deref(), owner.as_deref()),
        Said::Bytes { kind, bytes, client, owner } => hub.binary(kind, &bytes, client.as_deref(), owner.as_deref()),
        Said::Ran(runs) => {
            for Ran { class, device, seconds } in runs {
                metrics.node_elsewhere(&class, &device, Duration::try_from_secs_f64(seconds).unwrap_or_default());
            }
        }
    })
}

/// Lists what the workers have, as they come and go, for as long as the runtime runs.
pub(crate) async fn list(store: Arc<NatsStore>, folders: Arc<Folders>, beside: Arc<Beside>, metrics: Metrics) {
    let mut fleet = store.fleet();
    // What was read of each: `None` where it could not be.
    let mut known: BTreeMap<Away, Option<Vec<Entry>>> = BTreeMap::new();
    let mut listed: Vec<Away> = Vec::new();
    loop {
        folders.set_elsewhere(store.models());
        let own: Vec<Told> = store.told().into_values().collect();
        let members: Vec<Member> = store.members();
        metrics.keep_elsewhere(|device| {
            members.iter().any(|member| device.strip_prefix(&member.about.instance).is_some_and(|rest| rest.starts_with('/')))
        });
        let mut there: Vec<Away> = members.iter().flat_map(tells).filter(|(_, told)| !own.contains(told)).collect();
        there.sort_unstable();
        there.dedup();
        if there.len() > MAX_AWAY {
            tracing::warn!(there = there.len(), "workers have too many different ComfyUIs: the classes of {MAX_AWAY} are listed");
            there.truncate(MAX_AWAY);
        }
        known.retain(|away, _| there.contains(away));
        for away in &there {
            if !known.contains_key(away)
                && let Some(read) = read(&store, &members, away).await
            {
                known.insert(away.clone(), read);
            }
        }
        there.retain(|away| matches!(known.get(away), Some(Some(_))));
        if there != listed {
            beside.set_away(there.iter().filter_map(|away| known.get(away).cloned().flatten()).collect());
            listed = there;
        }
        let _changed = tokio::time::timeout(LOOK, fleet.changed()).await;
    }
}

/// The ComfyUIs of a process that runs prompts.
fn tells(member: &Member) -> Vec<Away> {
    let abilities = member.abilities.as_ref().filter(|_| !member.about.devices.is_empty());
    abilities.map(|abilities| abilities.told.iter().map(|(name, told)| (name.clone(), told.clone())).collect()).unwrap_or_default()
}

/// The classes of a ComfyUI, from any process that has it. `None` where none answers now; an empty answer where it cannot be used.
async fn read(store: &Arc<NatsStore>, members: &[Member], away: &Away) -> Option<Option<Vec<Entry>>> {
    let (name, told) = away;
    for member in members.iter().filter(|member| tells(member).contains(away)) {
        let text = match store.read_text(&member.session, told).await {
            Ok(text) => text,
            Err(error) => {
                tracing::debug!(%error, instance = member.about.instance, "the classes of a worker cannot be read now");
                continue;
            }
        };
        let host = format!("{name}@{}", &told.digest[..SHORT.min(told.digest.len())]);
        let ask = ask(Arc::clone(store), away.clone(), Handle::current());
        let read = tokio::task::spawn_blocking(move || comfyd_python::away(&host, &text, ask)).await;
        return Some(match read {
            Ok(Ok(entries)) => {
                tracing::info!(name = &**name, instance = member.about.instance, classes = entries.len(), "classes of a worker are known");
                Some(entries)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, instance = member.about.instance, "the classes of a worker are not understood and not listed");
                None
            }
            Err(_panic) => None,
        });
    }
    None
}

/// Has checks of inputs answered by whichever process has the ComfyUI then. The thread that asks may be one of the runtime's.
fn ask(store: Arc<NatsStore>, away: Away, runtime: Handle) -> Ask {
    Arc::new(move |question| {
        let (sender, answer) = mpsc::sync_channel(1);
        let (store, away) = (Arc::clone(&store), away.clone());
        runtime.spawn(async move { drop(sender.send(asked(&store, &away, &question).await)) });
        answer.recv_timeout(CHECK).map_err(|_late| Error::Unreachable("no worker that has it answered in time".to_owned()))?
    })
}

/// Asks those that have it one after the other, each for as long as it is there.
async fn asked(store: &NatsStore, away: &Away, question: &str) -> Result<Json> {
    let mut failure = "the workers that had it are gone".to_owned();
    for member in store.members().iter().filter(|member| tells(member).contains(away)) {
        let answer = tokio::select! {
            answer = store.check(&member.session, &away.0, question) => answer,
            () = lost(store, &member.session) => Err("the worker that was asked is not heard of any more".to_owned()),
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(why) => failure = why,
        }
    }
    Err(Error::Unreachable(failure))
}

/// Waits until a process cannot be asked any more, or its lease has ended.
async fn lost(store: &NatsStore, session: &str) {
    loop {
        tokio::time::sleep(STILL_THERE).await;
        if !store.listens(session).await || !store.members().iter().any(|member| member.session == session) {
            return;
        }
    }
}
