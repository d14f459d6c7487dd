//! Two programs that share files: what is given to one the other serves and runs. On a folder, and on an S3 server from PyPI where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::{Part, S3, Server, multipart};

async fn upload(server: &Server, name: &str, bytes: &[u8]) -> Value {
    let (body, content_type) = multipart(&[Part { name: "image", filename: Some(name), content_type: "image/png", bytes }]);
    let request = reqwest::Client::new().post(format!("{}/upload/image", server.url)).header("content-type", content_type).body(body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

async fn view(server: &Server, file: &Value, range: Option<&str>) -> (u16, String, Vec<u8>) {
    let text = |key: &str| file[key].as_str().unwrap_or_default();
    let (name, kind, subfolder) = (text("filename"), text("type"), text("subfolder"));
    let mut request = reqwest::Client::new().get(format!("{}/view?filename={name}&type={kind}&subfolder={subfolder}", server.url));
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let response = request.send().await.unwrap();
    let tag = response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), tag, response.bytes().await.unwrap().to_vec())
}

/// Runs a prompt and gives what node 2 shows.
async fn run(server: &Server, prompt: &Value) -> Value {
    let (status, answer) = server.post("/prompt", &json!({"prompt": prompt})).await;
    assert_eq!(status, 200, "{answer}");
    let mut entry = server.finished(answer["prompt_id"].as_str().unwrap()).await;
    assert_eq!(entry["status"]["status_str"], "success", "{entry}");
    entry["outputs"]["2"]["images"][0].take()
}

fn picture(color: u8) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(8, 6, image::Rgb([color, 8, 7])).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

async fn two_share(place: &str, settings: &[(&str, String)]) {
    let start = async || Server::start_with_env(settings, &["--files", place, "--files-cache", "1G", "--cpu"]).await;
    let (one, other) = (start().await, start().await);
    // What one takes in the other runs at once.
    assert_eq!(upload(&one, "in.png", &picture(200)).await["name"], "in.png");
    let inverted = |class: &str, inputs: Value| {
        let mut graph = json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
            "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
            "2": {"class_type": class, "inputs": inputs},
        });
        graph["2"]["inputs"]["images"] = json!(["3", 0]);
        graph
    };
    let save = inverted("SaveImage", json!({"filename_prefix": "deep/out"}));
    let saved = run(&other, &save).await;
    assert_eq!((&saved["filename"], &saved["subfolder"]), (&json!("out_00001_.png"), &json!("deep")));
    // And what it made of it the first one serves: whole, in ranges, with its metadata, under one validator.
    let (status, tag, bytes) = view(&one, &saved, None).await;
    assert_eq!(status, 200);
    let decoded = image::load_from_memory(&bytes).unwrap().into_rgb8();
    assert_eq!((decoded.dimensions(), decoded.get_pixel(0, 0).0), ((8, 6), [54, 247, 248]));
    assert!(bytes.windows(9).any(|window| window == b"LoadImage"), "the prompt is in it");
    let (status, other_tag, part) = view(&one, &saved, Some("bytes=10-19")).await;
    assert_eq!((status, &part[..], &other_tag), (206, &bytes[10..20], &tag));
    assert_eq!(view(&other, &saved, None).await, (200, tag, bytes));
    // Both count on in the same folder, and neither takes the other's name.
    let mut names = Vec::new();
    for (turn, server) in [&one, &other, &one, &one, &other].into_iter().enumerate() {
        upload(server, &format!("in{turn}.png"), &picture(turn as u8)).await;
        let mut again = save.clone();
        again["1"]["inputs"]["image"] = json!(format!("in{turn}.png"));
        names.push(run(server, &again).await["filename"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, (2..7).map(|n| format!("out_{n:05}_.png")).collect::<Vec<_>>());
    // Previews are served everywhere, as long as the program runs that made them.
    let preview = run(&other, &inverted("PreviewImage", json!({}))).await;
    assert_eq!((view(&one, &preview, None).await.0, &preview["type"]), (200, &json!("temp")));
    assert_eq!(one.post("/userdata/workflows%2Fa.json", &json!({"a": 1})).await.0, 200);
    assert_eq!(other.get("/userdata/workflows%2Fa.json").await, json!({"a": 1}));
    assert_eq!(other.post("/settings/Comfy.Locale", &json!("ja")).await.0, 200);
    assert_eq!(one.get("/settings/Comfy.Locale").await, json!("ja"));
    let (ended, _base) = other.stop("TERM");
    assert!(ended.success());
    assert_eq!(view(&one, &preview, None).await.0, 404, "what was short-lived went with its program");
    // A third one, with empty folders, has all of it.
    let third = start().await;
    assert_eq!(view(&third, &saved, None).await.0, 200);
    assert!(
        third.get("/object_info/LoadImage").await["LoadImage"]["input"]["required"]["image"][0]
            .as_array()
            .unwrap()
            .contains(&json!("in.png"))
    );
    assert_eq!(third.get("/settings/Comfy.Locale").await, json!("ja"));
}

/// Classes of a ComfyUI know nothing of it: they read and write folders.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn classes_that_read_and_write_folders_share_files_too() {
    let (dir, comfyui) = (tempfile::tempdir().unwrap(), support::conformance("../crates/python/tests/comfyui").canonicalize().unwrap());
    let place = dir.path().join("files");
    let start =
        async || Server::start_with_env(&[], &["--files", place.to_str().unwrap(), "--comfyui", comfyui.to_str().unwrap(), "--cpu"]).await;
    let (one, other) = (start().await, start().await);
    let saves = |file: &str| {
        json!({
            "1": {"class_type": "StubReadInput", "inputs": {"file": file}},
            "2": {"class_type": "StubSaveOutput", "inputs": {"text": ["1", 0]}},
        })
    };
    let mut names = Vec::new();
    for (file, taker, runner) in [("a.txt", &one, &other), ("b.txt", &other, &one), ("c.txt", &one, &other)] {
        upload(taker, file, format!("of {file}").as_bytes()).await;
        let saved = run(runner, &saves(file)).await;
        assert_eq!(view(taker, &saved, None).await.2, format!("of {file}").as_bytes());
        names.push(saved["filename"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, ["stub_00001_.txt", "stub_00002_.txt", "stub_00003_.txt"], "each counts what is in its own folder");
    let (status, refused) = one.post("/prompt", &json!({"prompt": saves("none.txt")})).await;
    assert!(status == 400 && refused.to_string().contains("there is no none.txt"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    two_share(dir.path().join("files").to_str().unwrap(), &[]).await;
    assert!(dir.path().join("files/output/deep/out_00006_.png").is_file(), "its files are files");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_share_a_bucket() {
    let Some(s3) = S3::start() else { return };
    s3.make("bucket");
    two_share("s3://bucket/some/prefix", &s3.settings()).await;
}

#[test]
fn a_store_that_cannot_be_had_is_said_at_the_start() {
    let base = tempfile::tempdir().unwrap();
    for (place, why) in [("ftp://host/x", "s3://BUCKET/PREFIX"), ("s3://", "s3://BUCKET/PREFIX")] {
        let (ended, said) =
            support::run_in_shell(r#""$@""#, &["serve", "--port", "0", "--front-end", "none", "--files", place], base.path());
        assert!(!ended.success() && said.contains(why), "{place}: {said}");
    }
    let (ended, said) = support::run_in_shell(r#""$@""#, &["serve", "--enable-assets", "--files", "x"], base.path());
    assert!(!ended.success() && said.contains("--enable-assets"), "{said}");
}
