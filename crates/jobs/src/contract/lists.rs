//! Filters, orders and pages of the history, against a list that is filtered, sorted and cut by hand.

use std::sync::Arc;

use super::harness::{Harness, LIMITS, claim, job, outcome, restarted, total};
use crate::store::{HistoryEntry, HistoryQuery, JobStore, NewJob, Order, Position, Status};

pub(super) async fn run(harness: &dyn Harness) {
    let store = filled(harness).await;
    let all = store.history(&HistoryQuery::default()).await.unwrap().entries;
    filters(store.as_ref(), &all, "at once").await;
    cursors(store.as_ref(), &all).await;
    let store = restarted(harness, store).await;
    filters(store.as_ref(), &all, "after a restart").await;
    removal(store.as_ref(), &all).await;
}

/// Prompts of two owners and two workflows that ended in all ways, with equal and different times.
async fn filled(harness: &dyn Harness) -> Arc<dyn JobStore> {
    let store = harness.fresh(LIMITS).await;
    for n in 0..12_i64 {
        let owner = ["", "me"][(n % 2) as usize];
        let workflow_id = [None, Some("w"), Some("v")][(n % 3) as usize].map(Arc::from);
        let new = NewJob { owner: owner.into(), workflow_id, ..job(&format!("j{n}"), Position::Back) };
        store.enqueue(new).await.unwrap();
    }
    for n in 0..12_i64 {
        let claimed = claim(store.as_ref(), "lists").await;
        let mut end = outcome([Status::Success, Status::Error, Status::Success, Status::Interrupted][(n % 4) as usize]);
        end.started_ms -= n;
        end.ended_ms = end.started_ms + [30, 10, 20, 10, 40][(n % 5) as usize];
        store.finish(&claimed.token, &end).await.unwrap();
        if n == 6 {
            // One that was enqueued late and ends in the middle.
            store.enqueue(job("front", Position::Front)).await.unwrap();
        }
    }
    store
}

/// The wanted entries in the wanted order, all pages of them.
fn sorted(all: &[Arc<HistoryEntry>], query: &HistoryQuery) -> Vec<String> {
    let wanted = |entry: &&Arc<HistoryEntry>| {
        let status = query.statuses.is_empty() || query.statuses.contains(&entry.status);
        let owner = query.owner.is_none() || query.owner.as_ref() == Some(&entry.job.owner);
        let time = query.ended_ms.is_none_or(|(from, to)| from <= entry.ended_ms && entry.ended_ms <= to);
        status && owner && time && (query.workflow_id.is_none() || query.workflow_id == entry.job.workflow_id)
    };
    let mut found: Vec<&Arc<HistoryEntry>> = all.iter().filter(wanted).collect();
    match query.order {
        Order::Ended => {}
        Order::Created => found.sort_by_key(|entry| entry.job.created_ms),
        Order::Duration => found.sort_by_key(|entry| entry.ended_ms - entry.started_ms),
    }
    if query.descending {
        found.reverse();
    }
    found.iter().map(|entry| entry.job.id.clone()).collect()
}

fn queries(all: &[Arc<HistoryEntry>]) -> Vec<HistoryQuery> {
    let mut queries = Vec::new();
    // From each entry's end to every later one's.
    for (index, from) in all.iter().enumerate() {
        let times = all[index..].iter().map(|to| Some((from.ended_ms, to.ended_ms)));
        queries.extend(times.map(|ended_ms| HistoryQuery { ended_ms, ..HistoryQuery::default() }));
    }
    for statuses in [vec![], vec![Status::Error], vec![Status::Success, Status::Interrupted]] {
        for owner in [None, Some("me"), Some(""), Some("nobody")] {
            for workflow_id in [None, Some("w"), Some("u")] {
                for (order, descending) in [
                    (Order::Ended, false),
                    (Order::Ended, true),
                    (Order::Created, false),
                    (Order::Created, true),
                    (Order::Duration, false),
                    (Order::Duration, true),
                ] {
                    let (statuses, owner, workflow_id) = (statuses.clone(), owner.map(Arc::from), workflow_id.map(Arc::from));
                    queries.push(HistoryQuery { statuses, owner, workflow_id, order, descending, ..HistoryQuery::default() });
                }
            }
        }
    }
    queries
}

async fn filters(store: &dyn JobStore, all: &[Arc<HistoryEntry>], round: &str) {
    for query in queries(all) {
        let wanted = sorted(all, &query);
        for (offset, limit) in [(0, None), (0, Some(3)), (2, Some(3)), (5, None), (99, Some(1)), (0, Some(0)), (1, Some(usize::MAX))] {
            let query = HistoryQuery { offset, limit, ..query.clone() };
            let page = store.history(&query).await.unwrap();
            let ids: Vec<&String> = page.entries.iter().map(|entry| &entry.job.id).collect();
            let cut: Vec<&String> = wanted.iter().skip(offset).take(limit.unwrap_or(usize::MAX)).collect();
            assert_eq!(ids, cut, "lists: {round}: {query:?}");
            assert_eq!(page.total, wanted.len(), "lists: the total, {round}: {query:?}");
        }
    }
}

/// Page after page gives everything once.
async fn cursors(store: &dyn JobStore, all: &[Arc<HistoryEntry>]) {
    for query in queries(all) {
        let mut query = HistoryQuery { limit: Some(2), ..query };
        let mut read = Vec::new();
        loop {
            let page = store.history(&query).await.unwrap();
            read.extend(page.entries.iter().map(|entry| entry.job.id.clone()));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        assert_eq!(read, sorted(all, &query), "lists: by cursors: {query:?}");
    }
}

/// What is deleted is in no list and in no total, and does not disturb who reads on behind it.
async fn removal(store: &dyn JobStore, all: &[Arc<HistoryEntry>]) {
    const CHECK: &str = "lists: removal";
    let newest = HistoryQuery { descending: true, limit: Some(4), ..HistoryQuery::default() };
    let first = store.history(&newest).await.unwrap();
    let gone: Vec<String> = first.entries[2..].iter().map(|entry| entry.job.id.clone()).collect();
    assert_eq!(store.delete_history(&gone).await.unwrap(), 2, "{CHECK}");
    let second = store.history(&HistoryQuery { after: first.next, ..newest }).await.unwrap();
    assert_eq!(second.entries[0].job.id, all[all.len() - 5].job.id, "{CHECK}: the page behind a deleted entry");
    assert_eq!((second.total, total(store).await), (all.len() - 2, all.len() - 2), "{CHECK}: the total");
}
