//! Uploads, views, user data, settings and static files through the router, as clients ask for them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use axum::http::StatusCode;
use comfyd_node::Schema;
use comfyd_server::{FrontEnd, Options};
use serde_json::{Value, json};
use support::{Server, picture, put};

fn start(change: impl FnOnce(&mut Options, &Path)) -> Server {
    Server::new([Schema::new("Described").description("What it does.")], change)
}

/// The status of an error, which must be JSON.
async fn error(server: &Server, path: &str) -> u16 {
    let answer = server.get(path).await;
    assert!(answer.json()["error"]["message"].is_string(), "{path}");
    answer.status.as_u16()
}

fn pixel(bytes: &[u8]) -> [u8; 4] {
    image::load_from_memory(bytes).unwrap().to_rgba8().get_pixel(0, 0).0
}

#[tokio::test]
async fn uploads_are_viewed_in_every_form() {
    let server = start(|_, _| ());
    let sent = picture(100);
    let stored = json!({"name": "a.png", "subfolder": "", "type": "input"});
    assert_eq!(server.upload("/upload/image", "a.png", &sent, &[]).await.json(), stored);
    assert_eq!(server.upload("/api/upload/image", "a.png", &sent, &[]).await.json(), stored);
    assert_eq!(server.upload("/upload/image", "a.png", &picture(1), &[]).await.json()["name"], "a (1).png");
    let view = server.get("/view?filename=a.png&type=input").await;
    assert_eq!((view.header("content-type"), view.header("x-content-type-options")), ("image/png", "nosniff"));
    assert_eq!(view.header("content-disposition"), "inline; filename=\"a.png\"");
    assert_eq!(view.body, sent);
    for (query, mime) in [("preview=webp;80", "image/webp"), ("preview=jpeg", "image/jpeg"), ("channel=rgb", "image/png")] {
        let view = server.get(&format!("/api/view?filename=a.png%20[input]&{query}")).await;
        assert_eq!((view.status, view.header("content-type")), (StatusCode::OK, mime));
        assert_eq!(image::load_from_memory(&view.body).unwrap().width(), 6);
    }
    assert_eq!(pixel(&server.get("/view?filename=a.png&type=input&channel=a").await.body), [0, 0, 0, 100]);
    assert_eq!(pixel(&server.get("/view?filename=a.png&type=input&channel=rgb").await.body), [9, 8, 7, 255]);
}

#[tokio::test]
async fn previews_of_all_kinds_of_pictures_are_those_that_nodes_read() {
    let server = start(|_, _| ());
    let files = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../imaging/tests/files");
    for name in ["420.jpg", "cmyk.jpg", "RGB_420.avif", "RGB.ico", "colors.ppm", "float.tif", "P.tga", "RGB.jp2", "P.pcx"] {
        server.upload("/upload/image", name, &std::fs::read(files.join(name)).unwrap(), &[]).await;
        let wanted = image::open(files.join(format!("{name}.png"))).unwrap().into_rgb8();
        let view = server.get(&format!("/view?filename={name}&type=input&channel=rgb")).await;
        assert_eq!(image::load_from_memory(&view.body).unwrap().into_rgb8(), wanted, "{name}");
        let preview = server.get(&format!("/view?filename={name}&type=input&preview=webp;80")).await;
        assert_eq!((preview.status, preview.header("content-type")), (StatusCode::OK, "image/webp"), "{name}");
    }
}

#[tokio::test]
async fn a_view_answers_ranges_and_validators() {
    let server = start(|_, dir| {
        put(dir, "output/a.bin", "0123456789");
    });
    let part = server.send("GET", "/view?filename=a.bin", &[("range", "bytes=2-4")], "").await;
    assert_eq!((part.status.as_u16(), part.header("content-range"), &part.body[..]), (206, "bytes 2-4/10", &b"234"[..]));
    let outside = server.send("GET", "/view?filename=a.bin", &[("range", "bytes=10-")], "").await;
    assert_eq!((outside.status.as_u16(), outside.header("content-range")), (416, "bytes */10"));
    let etag = part.header("etag").to_owned();
    let same = server.send("GET", "/view?filename=a.bin", &[("if-none-match", &etag)], "").await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
}

#[tokio::test]
async fn what_a_browser_would_run_is_sent_as_an_attachment() {
    let server = start(|_, _| ());
    let endings = "html htm shtml xhtml xht svg svgz xml xsl js mjs cjs jsx css mht mhtml eml hta htc vbs vb wsf wsh url lnk scr cmd bat ps1 \
        reg py sh swf pdf wasm jar xbap chm hlp x3d dae rss rdf map webmanifest appcache php exe safetensors HTML SVG Mht no-ending";
    for ending in endings.split_whitespace() {
        let name = &format!("x.{ending}");
        server.upload("/upload/image", name, b"<script>", &[]).await;
        server.send("POST", &format!("/userdata/{name}"), &[], "<script>").await;
        for path in [format!("/view?filename={name}&type=input"), format!("/userdata/{name}")] {
            let sent = server.get(&path).await;
            assert_eq!((sent.status, sent.header("content-type")), (StatusCode::OK, "application/octet-stream"), "{path}");
            assert!(sent.header("content-disposition").starts_with("attachment"), "{path}");
            assert_eq!(sent.header("x-content-type-options"), "nosniff", "{path}");
        }
    }
    let as_image = server.send("GET", "/view?filename=x.svg&type=input", &[("sec-fetch-dest", "image")], "").await;
    assert_eq!((as_image.header("content-type"), as_image.header("vary")), ("image/svg+xml", "Sec-Fetch-Dest"));
    assert_eq!(as_image.header("cache-control"), "no-store");
    let page = server.send("GET", "/view?filename=x.html&type=input", &[("sec-fetch-dest", "image")], "").await;
    assert_eq!(page.header("content-type"), "application/octet-stream");
    for (name, mime) in [
        ("x.png", "image/png"),
        ("x.webp", "image/webp"),
        ("x.mp4", "video/mp4"),
        ("x.flac", "audio/flac"),
        ("x.txt", "text/plain"),
        ("x.json", "application/json"),
    ] {
        server.upload("/upload/image", name, b"shown", &[]).await;
        let view = server.get(&format!("/view?filename={name}&type=input")).await;
        assert_eq!((view.header("content-type"), view.header("x-content-type-options")), (mime, "nosniff"));
        assert!(view.header("content-disposition").starts_with("inline"), "{name}");
    }
}

#[tokio::test]
async fn damaged_files_are_named_and_never_replaced() {
    let server = start(|options, _| options.multi_user = true);
    let id = server.send("POST", "/users", &[], r#"{"username": "a"}"#).await.json();
    let user = [("comfy-user", id.as_str().unwrap())];
    let long = server.send("POST", "/settings/K", &user, format!("\"{}\"", "x".repeat(17 << 20))).await;
    assert_eq!(long.status, 413);
    let settings = server.dir.path().join("user").join(user[0].1).join("comfy.settings.json");
    server.send("POST", "/settings/K", &user, "1").await;
    for damaged in ["{\"K\": 1", "", "[]", "null"] {
        std::fs::write(&settings, damaged).unwrap();
        for (path, body) in [("/settings", "{\"L\": 2}"), ("/settings/L", "2")] {
            let answer = server.send("POST", path, &user, body).await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(message.contains("comfy.settings.json") && !message.contains(server.dir.path().to_str().unwrap()), "{message}");
        }
        assert_eq!(std::fs::read_to_string(&settings).unwrap(), damaged);
        assert_eq!(server.send("GET", "/settings", &user, "").await.json(), json!({}), "the front end starts");
    }
    let users = server.dir.path().join("user/users.json");
    for damaged in ["{\"a\": ", "[1]"] {
        std::fs::write(&users, damaged).unwrap();
        for (method, path, body) in [("POST", "/users", r#"{"username": "b"}"#), ("GET", "/users", ""), ("GET", "/v2/userdata", "")] {
            let answer = server.send(method, path, &user, body).await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
            assert!(answer.json()["error"]["message"].as_str().unwrap().contains("users.json"));
        }
        assert_eq!(std::fs::read_to_string(&users).unwrap(), damaged);
    }
    // Something that cannot be read at all is not a missing file.
    std::fs::remove_file(&users).unwrap();
    std::fs::create_dir(&users).unwrap();
    assert_eq!(server.send("POST", "/users", &[], r#"{"username": "b"}"#).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn without_templates_a_new_user_begins_with_a_workflow() {
    let pages = |options: &mut Options, dir: &Path| {
        std::fs::create_dir_all(dir.join("web/1.58.1")).unwrap();
        options.front_end = FrontEnd::Folder(dir.join("web/1.58.1"));
    };
    let begun = json!({"Comfy.TutorialCompleted": true, "Comfy.InstalledVersion": "1.58.1"});
    let server = start(pages);
    assert_eq!(server.get("/settings").await.json(), begun);
    assert_eq!(server.get("/settings/Comfy.TutorialCompleted").await.json(), json!(true));
    assert!(!server.dir.path().join("user/default").exists(), "asking writes nothing");
    server.send("POST", "/settings/K", &[], "1").await;
    assert_eq!(server.get("/settings").await.json()["Comfy.InstalledVersion"], "1.58.1", "it stays what the user began with");
    // Settings that a user has are the user's.
    std::fs::write(server.dir.path().join("user/default/comfy.settings.json"), "{}").unwrap();
    assert_eq!(server.get("/settings").await.json(), json!({}));
    let server = start(|options, dir| {
        pages(options, dir);
        put(dir, "web/1.58.1/templates/index.json", "[]");
    });
    assert_eq!(server.get("/settings").await.json(), json!({}));
    assert_eq!(start(|_, _| ()).get("/settings").await.json(), json!({}));
}

#[tokio::test]
async fn names_cannot_lead_outside() {
    let server = start(|_, _| ());
    let up = server.upload("/upload/image", "a.png", b"x", &[("subfolder", "../../etc")]).await;
    assert_eq!(up.status, StatusCode::BAD_REQUEST);
    let up = server.upload("/upload/image", "../../evil.png", b"x", &[]).await;
    assert_eq!(up.json()["name"], "..%2F..%2Fevil.png");
    assert!(!server.dir.path().parent().unwrap().join("evil.png").exists());
    for (path, status) in [
        ("/view", 404),
        ("/view?filename=nope.png", 404),
        ("/view?filename=../x.png", 400),
        ("/view?filename=/etc/passwd", 400),
        ("/view?filename=x.png&type=secret", 400),
        ("/view?filename=x.png&subfolder=../../..", 403),
        ("/view_metadata/checkpoints", 404),
        ("/view_metadata/nofolder?filename=x.safetensors", 404),
        ("/userdata/..%2F..%2Fx", 403),
        ("/userdata/%252e%252e%252fx", 403),
        ("/userdata", 400),
        ("/userdata?dir=nothing", 404),
        ("/userdata?dir=../..", 403),
        ("/v2/userdata?path=../..", 400),
        ("/experiment/models/none", 404),
        ("/models/none", 404),
    ] {
        assert_eq!(error(&server, path).await, status, "{path}");
    }
}

#[tokio::test]
async fn unfinished_files_are_neither_listed_nor_given_out() {
    let server = start(|_, _| {});
    let (part, download) = (".0123456789abcdef.part", ".m.safetensors.part");
    for folder in ["input", "output", "temp", "user/default/workflows", "custom_nodes", "models/checkpoints"] {
        std::fs::create_dir_all(server.dir.path().join(folder)).unwrap();
        for name in [part, download] {
            std::fs::write(server.dir.path().join(folder).join(name), "half").unwrap();
        }
    }
    let lists = ["/internal/files/output", "/internal/files/input", "/internal/files/temp", "/models/custom_nodes", "/models/checkpoints"];
    for list in
        lists.into_iter().chain(["/userdata?dir=workflows&recurse=true", "/v2/userdata?path=workflows", "/experiment/models/custom_nodes"])
    {
        assert_eq!(server.get(list).await.json(), json!([]), "{list}");
    }
    for name in [part, download] {
        for path in [
            format!("/view?filename={name}&type=output"),
            format!("/userdata/workflows%2F{name}"),
            format!("/view?filename={name}&type=temp&preview=webp"),
        ] {
            assert!((400..405).contains(&error(&server, &path).await), "{path}");
        }
        assert_eq!(server.send("POST", &format!("/userdata/{name}"), &[], "x").await.status, 400);
        assert_eq!(server.send("DELETE", &format!("/userdata/workflows%2F{name}"), &[], "").await.status, 400);
        assert_eq!(server.upload("/upload/image", name, b"x", &[]).await.status, 400);
        assert!(server.dir.path().join("user/default/workflows").join(name).exists());
    }
}

#[tokio::test]
async fn a_mask_goes_with_its_original() {
    let server = start(|_, _| ());
    server.upload("/upload/image", "a.png", &picture(255), &[]).await;
    let original = r#"{"filename": "a.png", "type": "input", "subfolder": ""}"#;
    let fields = [("type", "input"), ("subfolder", "clipspace"), ("original_ref", original)];
    let masked = server.upload("/upload/mask", "m.png", &picture(3), &fields).await;
    assert_eq!(masked.json(), json!({"name": "m.png", "subfolder": "clipspace", "type": "input"}));
    assert_eq!(pixel(&server.get("/view?filename=m.png&type=input&subfolder=clipspace").await.body), [9, 8, 7, 3]);
    let lost = server.upload("/upload/mask", "m.png", &picture(3), &[("original_ref", r#"{"filename": "no.png"}"#)]).await;
    assert_eq!(lost.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn user_files_and_settings_round_trip() {
    let server = start(|_, _| ());
    let file = "/userdata/t1%2Fa.json";
    assert_eq!(server.send("POST", file, &[], "{\"a\":1}").await.json(), "t1/a.json");
    assert_eq!(server.get(file).await.json(), json!({"a": 1}));
    assert_eq!(server.get("/userdata?dir=t1&recurse=true&split=true").await.json(), json!([["a.json", "a.json"]]));
    assert_eq!(server.get("/api/userdata?dir=t1&full_info=true").await.json()[0]["size"], 7);
    assert_eq!(server.get("/v2/userdata").await.json()[0], json!({"name": "t1", "path": "t1", "type": "directory"}));
    assert_eq!(server.send("POST", "/userdata/t1%2Fa.json?overwrite=false", &[], "x").await.status, StatusCode::CONFLICT);
    assert_eq!(server.send("POST", "/userdata/t1%2Fa.json/move/t1%2Fb.json", &[], "").await.json(), "t1/b.json");
    assert_eq!(server.send("DELETE", "/userdata/t1%2Fb.json", &[], "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.send("DELETE", "/userdata/t1%2Fb.json", &[], "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.send("POST", "/settings/Test.Key", &[], "5").await.status, StatusCode::OK);
    assert_eq!(server.send("POST", "/settings", &[], r#"{"Other": {"x": [1]}}"#).await.status, StatusCode::OK);
    assert_eq!(server.get("/settings").await.json(), json!({"Test.Key": 5, "Other": {"x": [1]}}));
    assert_eq!(server.get("/settings/None").await.json(), Value::Null);
}

#[tokio::test]
async fn what_the_front_end_expects_is_empty_rather_than_an_error() {
    let server = start(|options, dir| {
        std::fs::create_dir_all(dir.join("site/pkg/static")).unwrap();
        options.front_end = FrontEnd::Folder(dir.join("site/pkg/static"));
    });
    assert_eq!(server.get("/userdata?dir=workflows&recurse=true&full_info=true").await.json(), json!([]));
    assert_eq!(server.get("/userdata?dir=subgraphs%2F").await.json(), json!([]));
    assert_eq!(server.get("/api/userdata/comfy.templates.json").await.json(), json!([]));
    assert_eq!(server.get("/templates/index.json").await.json(), json!([]));
    assert_eq!(server.get("/api/userdata/workflows%2F.index.json").await.json(), json!({}));
    let help = server.get("/docs/KSampler/ja.md").await;
    assert_eq!((help.status, help.header("content-type"), help.body.len()), (StatusCode::OK, "text/markdown; charset=utf-8", 0));
    assert_eq!(server.get("/docs/Described/en.md").await.body, b"What it does.");
    for (file, text) in [("en.md", "help"), ("ja.md", "助け")] {
        server.put(&format!("site/pkg/static/docs/KSampler/{file}"), text);
    }
    assert_eq!(server.get("/docs/KSampler/ja.md").await.body, "助け".as_bytes());
    assert_eq!(server.get("/docs/KSampler/fr.md").await.body, b"help");
    assert_eq!(server.get("/docs/KSampler/picture.png").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/favicon.ico").await.status, StatusCode::NO_CONTENT);
    assert_eq!(start(|_, _| ()).get("/favicon.ico").await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.get("/user.css").await.header("content-type"), "text/css; charset=utf-8");
    server.send("POST", "/userdata/user.css", &[], "a {}").await;
    assert_eq!(server.get("/user.css").await.body, b"a {}");
    let style = server.get("/userdata/user.css").await;
    assert_eq!((style.header("content-type"), &style.body[..]), ("text/css; charset=utf-8", &b"a {}"[..]));
}

#[tokio::test]
async fn the_frameworks_own_errors_are_json_too() {
    let server = start(|_, _| ());
    for (path, status) in [("/ws", 400), ("/history?max_items=a", 400), ("/object_info/%ff", 400), ("/api/userdata/%ff", 400)] {
        assert_eq!(error(&server, path).await, status, "{path}");
    }
    assert_eq!(server.send("GET", "/nothing", &[], "").await.header("content-type"), "application/json");
}

#[tokio::test]
async fn users_are_told_apart_by_their_header() {
    let server = start(|options, _| options.multi_user = true);
    assert_eq!(error(&server, "/settings").await, 401);
    let id = server.send("POST", "/users", &[], r#"{"username": "a b"}"#).await.json();
    let id = id.as_str().unwrap();
    assert!(id.starts_with("a-b_"));
    assert_eq!(server.send("POST", "/users", &[], r#"{"username": "a b"}"#).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.send("POST", "/settings/K", &[("comfy-user", id)], "1").await.status, StatusCode::OK);
    assert!(server.dir.path().join("user").join(id).join("comfy.settings.json").exists());
    assert_eq!(server.send("GET", "/settings", &[("comfy-user", "../x")], "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_front_end_is_served_from_its_folder_only() {
    let server = start(|options, dir| {
        let root = dir.join("site/pkg/static");
        put(&root, "index.html", "<html>page");
        put(&root, "assets/a.js", "1");
        put(dir, "site/pkg/secret.txt", "s");
        options.front_end = FrontEnd::Folder(root);
    });
    let page = server.get("/").await;
    assert_eq!((page.header("content-type"), &page.body[..]), ("text/html; charset=utf-8", &b"<html>page"[..]));
    assert_eq!(server.get("/assets/a.js").await.header("content-type"), "text/javascript; charset=utf-8");
    for path in ["/..%2Fsecret.txt", "/%2e%2e/secret.txt", "/assets", "/none.js", "/templates/none.json"] {
        assert_eq!(error(&server, path).await, 404, "{path}");
    }
    assert!(start(|_, _| ()).get("/").await.body.starts_with(b"<!doctype html>"));
}

#[tokio::test]
async fn downloads_refuse_what_is_not_allowed() {
    let server = start(|_, _| ());
    for (url, folder, name, reason) in [
        ("http://huggingface.co/a", "loras", "a.safetensors", "not https"),
        ("https://example.com/a", "loras", "a.safetensors", "not allowed"),
        ("https://huggingface.co/a", "loras", "a.ckpt", "must end in"),
        ("https://huggingface.co/a", "loras", "../a.safetensors", "must not have"),
        ("https://huggingface.co/a", "none", "a.safetensors", "no model folder"),
    ] {
        let body = json!({"url": url, "model_directory": folder, "model_filename": name}).to_string();
        let answer = server.send("POST", "/internal/models/download", &[], body).await.json();
        assert_eq!(answer["status"], "error");
        assert!(answer["message"].as_str().unwrap().contains(reason), "{answer}");
    }
}
