//! Downloads from hosts of this machine: good, slow, silent and wrong ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::policy::BOUNDS;
use super::*;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;

fn model() -> Vec<u8> {
    [&2u64.to_le_bytes()[..], b"{}", &[7; 5000]].concat()
}

/// `/m` knows ranges, `/go` redirects to it, `/out` to a host that is not allowed, `/loop` to itself, `/page` is no model.
async fn host() -> String {
    async fn send(headers: HeaderMap) -> axum::response::Response {
        let start = headers.get("range").and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let fresh = headers.get("if-range").is_some_and(|e| e == "\"v1\"");
        let all = model();
        match start.filter(|_| fresh) {
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", all.len() - 1, all.len());
                (axum::http::StatusCode::PARTIAL_CONTENT, [("etag", "\"v1\"".to_owned()), ("content-range", range)], all[start..].to_vec())
                    .into_response()
            }
            None => ([("etag", "\"v1\"")], all).into_response(),
        }
    }
    async fn away(headers: HeaderMap) -> axum::response::Response {
        let place = format!("http://{}/m", headers["host"].to_str().unwrap().replace("localhost", "127.0.0.1"));
        (axum::http::StatusCode::FOUND, [("location", place)]).into_response()
    }
    let to = |place: &'static str| get(move || async move { (axum::http::StatusCode::FOUND, [("location", place)], Body::empty()) });
    let app = axum::Router::new()
        .route("/m", get(send))
        .route("/go", to("/m"))
        .route("/inside", to("http://127.0.0.2:1/m"))
        .route("/away", get(away))
        .route("/loop", to("/loop"))
        .route("/page", get(|| async { "<html>please log in</html>" }))
        .route("/silent", get(|| async { sent(Duration::from_secs(3600), 1) }))
        .route("/slow", get(|| async { sent(Duration::from_millis(20), 1) }))
        .route("/endless", get(|| async { sent(Duration::ZERO, 64 << 10) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

/// A model of no length: a first piece at once, and after each pause a further one.
fn sent(pause: Duration, piece: usize) -> axum::response::Response {
    let rest = futures_util::stream::unfold((), move |()| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, std::io::Error>(vec![7; piece]), ()))
    });
    let first = futures_util::stream::iter([Ok(model())]);
    Body::from_stream(first.chain(rest)).into_response()
}

#[tokio::test]
async fn a_host_cannot_hold_a_download_for_ever() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let target = dir.path().join("m.safetensors");
    let short = Duration::from_millis(200);
    for (path, bounds, reason) in [
        ("/silent", Bounds { idle: short, ..BOUNDS }, "broke after 5010 bytes"),
        ("/slow", Bounds { pace: (short, 1 << 20), ..BOUNDS }, "too slowly"),
        ("/slow", Bounds { total: short, ..BOUNDS }, "was not over"),
        ("/endless", Bounds { bytes: 1 << 20, ..BOUNDS }, "more than 1048576 bytes"),
    ] {
        let downloads = Downloads::new(Policy { bounds, ..Policy::local() });
        let got = downloads.fetch(&format!("{host}{path}"), &target, Duration::from_secs(1), &|_| ()).await;
        let failure = got.unwrap_err();
        assert!(failure.contains(reason), "{path}: {failure}");
        // Nothing says which file the part belongs to.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{path}");
    }
}

#[tokio::test]
async fn slow_downloads_leave_room_for_others_and_end_with_their_clients() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let downloads = std::sync::Arc::new(Downloads::new(Policy::local()));
    let slow: Vec<_> = (0..MAX_PER_HOST)
        .map(|n| {
            let downloads = std::sync::Arc::clone(&downloads);
            let (url, target) = (format!("{host}/slow"), dir.path().join(format!("{n}.safetensors")));
            tokio::spawn(async move { downloads.fetch(&url, &target, Duration::from_secs(1), &|_| ()).await })
        })
        .collect();
    let parts = || std::fs::read_dir(dir.path()).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "part")).count();
    let begun = async {
        while parts() < MAX_PER_HOST {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun).await.unwrap();
    let target = dir.path().join("m.safetensors");
    let get = async |host: &str| downloads.fetch(&format!("{host}/m"), &target, Duration::from_secs(1), &|_| ()).await;
    assert!(get(&host).await.unwrap_err().contains("from '127.0.0.1' are running"));
    get(&host.replace("127.0.0.1", "localhost")).await.unwrap();
    std::fs::remove_file(&target).unwrap();
    // As a request is dropped whose client closed its connection.
    for download in slow {
        download.abort();
        assert!(download.await.unwrap_err().is_cancelled());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    get(&host).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_download() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let target = dir.path().join("m.safetensors");
    let ordered = async move || {
        let done = Downloads::new(Policy::local()).fetch(&format!("{host}/slow"), &target, Duration::from_secs(1), &|_| ()).await;
        format!("{done:?}")
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = axum::Router::new().route("/", axum::routing::post(ordered));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let files = async |some: bool| {
        while std::fs::read_dir(dir.path()).unwrap().next().is_some() != some {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let long = Duration::from_secs(60);
    tokio::time::timeout(long, files(true)).await.expect("it begins");
    drop(client);
    tokio::time::timeout(long, files(false)).await.expect("it ends");
}

#[test]
fn room_is_that_of_the_targets_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::of(&dir.path().join("m.part"));
    let free = fs4::available_space(dir.path()).unwrap();
    assert!(room.left < free, "some of the free {free} bytes are kept");
    assert!(room.take(room.left) && !room.take(1));
}

#[test]
fn all_downloads_together_leave_some_room() {
    for total in [100 << 20, 1 << 30, 1 << 40] {
        let Room { left, measure_after, .. } = Room::within(total / 2, total);
        assert!(left + MAX_DOWNLOADS as u64 * measure_after < total / 2, "{total}");
    }
}

async fn get_to(target: &Path, url: &str) -> Result<(), Failure> {
    Downloads::new(Policy::local()).fetch(url, target, Duration::from_secs(1), &|_| ()).await
}

#[tokio::test]
async fn a_model_is_fetched_through_a_redirect() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let target = dir.path().join("sub/m.safetensors");
    get_to(&target, &format!("{host}/go")).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), model());
    assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
    assert!(get_to(&target, &format!("{host}/go")).await.unwrap_err().contains("there already"));
}

#[tokio::test]
async fn a_part_is_gone_on_with_only_if_the_file_is_the_same() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let url = format!("{host}/m");
    for (etag, name) in [("\"v1\"", "a.safetensors"), ("\"old\"", "b.safetensors")] {
        let target = dir.path().join(name);
        let part = Part::of(&target);
        // Another byte than the host's: it shows in the result whether the part was used.
        let mut begun = model()[..100].to_vec();
        begun[50] = 1;
        std::fs::write(&part.path, &begun).unwrap();
        std::fs::write(&part.note, format!("{url}\n{etag}")).unwrap();
        get_to(&target, &url).await.unwrap();
        let got = std::fs::read(&target).unwrap();
        assert_eq!(got.len(), model().len());
        assert_eq!(got[50] == 1, etag == "\"v1\"");
    }
}

#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let target = dir.path().join("m.safetensors");
    for (path, reason) in
        [("/inside", "127.0.0.2, which is not a public"), ("/loop", "redirects more"), ("/page", "not a safetensors"), ("/none", "404")]
    {
        let failure = get_to(&target, &format!("{host}{path}")).await.unwrap_err();
        assert!(failure.contains(reason), "{path}: {failure}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_allowed_host_may_redirect_to_where_it_keeps_its_files() {
    let (dir, host) = (tempfile::tempdir().unwrap(), host().await);
    let downloads = Downloads::new(Policy { hosts: vec!["localhost".into()], ..Policy::local() });
    let get = async |url: String| downloads.fetch(&url, &dir.path().join("m.safetensors"), Duration::from_secs(1), &|_| ()).await;
    assert!(get(format!("{host}/m")).await.unwrap_err().contains("not allowed"), "127.0.0.1 is not listed");
    get(format!("{}/away", host.replace("127.0.0.1", "localhost"))).await.unwrap();
    // With https alone, a redirect must not lead to an unencrypted address.
    let strict = Policy { https_only: true, ..Policy::public(vec![]) };
    assert!(strict.check(&Url::parse("http://example.com/m").unwrap()).is_err());
}

#[tokio::test]
async fn the_public_policy_refuses_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("m.safetensors");
    let downloads = Downloads::new(Policy { https_only: false, ..Policy::public(vec!["localhost".into()]) });
    let url = host().await.replace("127.0.0.1", "localhost");
    let failure = downloads.fetch(&format!("{url}/m"), &target, Duration::from_secs(1), &|_| ()).await.unwrap_err();
    assert!(failure.contains("not a public address"), "{failure}");
}
