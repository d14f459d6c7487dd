//! What accounts promise.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::{Account, OutOfMemory};

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let account = Account::new(100);
    let first = account.reserve(60).unwrap();
    assert_eq!(account.reserve(41).unwrap_err(), OutOfMemory { wanted: 41, free: 40, budget: Some(100) });
    let mut second = account.reserve(40).unwrap();
    assert!(second.resize(41).is_err());
    assert_eq!((account.held(), second.bytes()), (100, 40));
    drop(first);
    second.resize(100).unwrap();
    second.resize(1).unwrap();
    assert_eq!(account.held(), 1);
    assert!(account.reserve(u64::MAX).is_err(), "sums do not run over");
}

#[test]
fn parts_count_in_the_whole() {
    let whole = Account::new(100);
    let part = whole.part(30);
    let lease = part.reserve(30).unwrap();
    assert_eq!((part.held(), whole.held()), (30, 30));
    assert_eq!(part.reserve(1).unwrap_err().budget, Some(30));
    let other = whole.reserve(70).unwrap();
    drop(lease);
    let _all = whole.reserve(30).unwrap();
    assert_eq!(part.reserve(1).unwrap_err().budget, Some(100));
    assert_eq!(part.held(), 0);
    drop(other);
}

#[test]
fn what_can_be_done_without_gives_way_in_turn() {
    let account = Account::new(100);
    let held = Arc::new(Mutex::new([account.reserve(50).ok(), account.reserve(40).ok()]));
    for which in [1, 0] {
        let held = Arc::clone(&held);
        account.gives_way(which as u8, move |_| held.lock()[which].take().is_some());
    }
    let _first = account.reserve(20).unwrap();
    assert!(held.lock()[0].is_none() && held.lock()[1].is_some());
    assert!(account.reserve(90).is_err());
    assert_eq!(account.held(), 20);
}

#[test]
fn what_others_take_is_taken_off_and_what_is_there_counts_in_any_case() {
    let account = Account::new(100 << 20);
    account.beside_is(|| 60 << 20);
    assert!(account.reserve(50 << 20).is_err());
    let mut lease = account.reserve(40 << 20).unwrap();
    lease.set(200 << 20);
    assert_eq!(account.taken(), 260 << 20);
    assert!(account.reserve(1).is_err());
}

#[test]
fn what_was_counted_over_the_budget_drives_others_out_and_what_never_fits_does_not() {
    let account = Account::new(100);
    let held = Arc::new(Mutex::new(account.reserve(50).ok()));
    let holder = Arc::clone(&held);
    account.gives_way(0, move |_| holder.lock().take().is_some());
    assert!(account.reserve(101).is_err() && !account.has(60) && account.has(50));
    assert_eq!(account.held(), 50);
    let part = account.part(30);
    let lease = part.reserve(30).unwrap();
    assert!(part.reserve(1).is_err());
    assert_eq!(account.held(), 80, "a full part drives nobody out");
    drop(lease);
    let _there = account.count(70);
    account.relieve();
    assert_eq!(account.held(), 70);
}

#[test]
fn a_device_tells_what_it_has() {
    let account = Account::of_device(u64::MAX, 10, || 100);
    assert!(account.reserve(90).is_ok());
    assert_eq!(account.reserve(91).unwrap_err().free, 90);
}

#[tokio::test]
async fn who_waits_gets_what_is_given_back() {
    let account = Account::new(100);
    let lease = account.reserve(90).unwrap();
    let long = Duration::from_secs(60);
    let waiting = tokio::spawn({
        let account = account.clone();
        async move { account.reserve_within(50, long).await.map(|lease| lease.bytes()) }
    });
    tokio::task::yield_now().await;
    drop(lease);
    assert_eq!(waiting.await.unwrap(), Ok(50));
    let _lease = account.reserve(90).unwrap();
    assert!(account.reserve_within(50, Duration::from_millis(10)).await.is_err());
    assert!(account.reserve_within(500, long).await.is_err(), "what never fits does not wait");
}

#[test]
fn the_refusal_says_how_much_is_missing() {
    let told = |budget| OutOfMemory { wanted: 3 << 30, free: 700 << 20, budget }.to_string();
    assert!(told(Some(2 << 30)).starts_with("out of memory: 3.0 GiB are needed, and 700.0 MiB of 2.0 GiB are free"));
    assert!(told(None).starts_with("out of memory: 3.0 GiB are needed, and the machine has 700.0 MiB left"));
}
