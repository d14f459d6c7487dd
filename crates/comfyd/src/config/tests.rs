//! Tests of how the settings are read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

const HOME: [(&str, &str); 1] = [("HOME", "/home/a")];

fn with(args: &[&str], env: &[(&str, &str)]) -> Result<Config> {
    let args = std::iter::once("comfyd").chain(args.iter().copied()).map(OsString::from);
    let env = HOME.iter().chain(env).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    parse(args, env, Path::new("/here"))
}

fn serve(args: &[&str]) -> Config {
    with(&[&["serve"], args].concat(), &[]).unwrap()
}

fn refusal(args: &[&str], env: &[(&str, &str)]) -> String {
    with(args, env).unwrap_err().to_string()
}

fn file(content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("comfyd.toml");
    std::fs::write(&path, content).unwrap();
    (folder, path.to_string_lossy().into_owned())
}

#[test]
fn clap_accepts_the_declarations() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_comfyuis() {
    let config = serve(&[]);
    assert_eq!(config.action, Action::Serve);
    assert_eq!(config.listen, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!((config.port, config.max_upload_bytes, config.preview_size), (8188, 100 << 20, 512));
    assert_eq!((config.history_limit, config.cache, config.verbosity), (10_000, Cache::Classic, Verbosity::Info));
    assert_eq!((config.preview_method, config.api_shape, config.front_end), (PreviewMethod::None, ApiShape::Wire, FrontEnd::Auto));
    assert_eq!(config.roots.base, Path::new("/home/a/.local/share/comfyd"));
    assert_eq!(config.roots.temp, Path::new("/home/a/.local/share/comfyd/temp"));
    assert_eq!(config.download_hosts, ["huggingface.co", "civitai.com"]);
    assert!(config.tls.is_none() && config.allow_origins.is_empty() && config.allow_hosts.is_empty() && !config.multi_user);
    assert_eq!(with(&["serve"], &[("XDG_DATA_HOME", "/data")]).unwrap().roots.base, Path::new("/data/comfyd"));
    assert!(matches!(parse(["comfyd".into(), "serve".into()], [], Path::new("/")), Err(Error::NoHome)));
}

#[test]
fn instruction_sets_are_told_and_limited() {
    assert_eq!(serve(&[]).cpu_level, None);
    assert_eq!(serve(&["--cpu-features"]).action, Action::ListCpuFeatures);
    for level in comfyd_engine::CpuLevel::available() {
        let config = serve(&["--cpu-features", level.name()]);
        assert_eq!((config.cpu_level, config.action), (Some(level), Action::Serve));
    }
    assert!(refusal(&["serve", "--cpu-features", "mmx"], &[]).contains("does not have `mmx`; take auto or one of portable"));
}

#[test]
fn products_are_as_exact_as_asked() {
    assert_eq!(serve(&[]).precision, comfyd_engine::ProductPrecision::Auto);
    for precision in comfyd_engine::ProductPrecision::ALL {
        assert_eq!(serve(&["--precision", precision.name()]).precision, precision);
    }
    assert!(refusal(&["serve", "--precision", "fp8"], &[]).contains("`fp8` is no precision; take auto, f32 or bf16"));
}

#[test]
fn assets_are_kept_where_comfyuis_option_says() {
    assert_eq!(serve(&["--database-url", "sqlite:///:memory:"]).assets, None);
    for (args, database, hashing) in [
        (&["--enable-assets"][..], "/home/a/.local/share/comfyd/user/assets.db", false),
        (&["--enable-assets", "--user-directory", "u"], "/here/u/assets.db", false),
        (&["--enable-assets", "--database-url=sqlite:////x/y.db", "--enable-asset-hashing"], "/x/y.db", true),
        (&["--enable-assets", "--database-url", "sqlite:///y.db"], "/here/y.db", false),
    ] {
        assert_eq!(serve(args).assets, Some(Assets { database: database.into(), hashing }), "{args:?}");
    }
    for url in ["postgresql://x", "sqlite:///", "sqlite:///:memory:", "/x.db"] {
        assert!(refusal(&["serve", "--enable-assets", "--database-url", url], &[]).contains("sqlite:///PATH"), "{url}");
    }
}

#[test]
fn options_with_and_without_values() {
    let all: [IpAddr; 2] = ["0.0.0.0".parse().unwrap(), "::".parse().unwrap()];
    assert_eq!(serve(&["--listen"]).listen, all);
    assert_eq!(serve(&["--listen", "0.0.0.0,[::]"]).listen, all);
    assert_eq!(serve(&["--listen", "--port", "1"]).port, 1);
    assert!(refusal(&["serve", "--listen", "nowhere"], &[]).contains("not an IP address"));
    let origins = |args: &[&str]| serve(args).allow_origins;
    assert_eq!(origins(&["--enable-cors-header"]), [OriginRule::Any]);
    assert_eq!(origins(&["--enable-cors-header", "http://a"]), ["http://a".parse().unwrap()]);
    let both = ["http://a", "null", "file://"].map(|origin| origin.parse().unwrap());
    assert_eq!(origins(&["--enable-cors-header", "file://", "--allow-origin", "http://a", "null"]), both);
    assert!(refusal(&["serve", "--allow-origin", "localhost:5173"], &[]).contains("such as http://localhost:5173"));
    let hosts = [HostRule::Below("b".into()), "a".parse().unwrap()];
    assert_eq!(serve(&["--allow-host", "*.b", "--allow-host", "A."]).allow_hosts, hosts);
    assert_eq!(with(&["serve"], &[("COMFYD_ALLOW_HOST", "*.b,a")]).unwrap().allow_hosts, hosts);
    assert!(refusal(&["serve", "--allow-host", "https://a"], &[]).contains("without scheme and port"));
    assert_eq!(serve(&["--verbose"]).verbosity, Verbosity::Debug);
    assert_eq!(serve(&["--verbose", "warning"]).verbosity, Verbosity::Warning);
    assert_eq!(serve(&["--preview-method", "latent2rgb"]).preview_method, PreviewMethod::Latent2Rgb);
    assert_eq!(serve(&["--max-upload-size", "0.5"]).max_upload_bytes, 512 << 10);
    assert!(refusal(&["serve", "--max-upload-size", "NaN"], &[]).contains("above 0"));
}

#[test]
fn what_runs_prompts() {
    let of = |args: &[&str]| serve(args).devices;
    let these = |devices: &[Device]| Devices::These(devices.to_vec());
    assert_eq!([of(&[]), of(&["--device", "auto"]), of(&["--device", "all"])], [Devices::Auto, Devices::Auto, Devices::All]);
    assert_eq!([of(&["--cpu"]), of(&["--device", "cpu"])], [these(&[Device::Cpu]), these(&[Device::Cpu])]);
    assert_eq!([of(&["--cuda-device", "1"]), of(&["--device", "cuda:1"])], [these(&[Device::Cuda(1)]), these(&[Device::Cuda(1)])]);
    assert_eq!(of(&["--device", "cpu, cpu,cuda,cuda:3"]), these(&[Device::Cpu, Device::Cpu, Device::Cuda(0), Device::Cuda(3)]));
    for (wrong, why) in [
        ("gpu", "`gpu` is no device"),
        ("cuda:x", "no device"),
        ("cpu,all", "no device"),
        ("cuda:0,cuda", "named twice"),
        ("", "is no device"),
    ] {
        assert!(refusal(&["serve", "--device", wrong], &[]).contains(why), "{wrong}");
    }
    assert!(refusal(&["serve", "--device", &["cpu"; 65].join(",")], &[]).contains("at most 64"));
    for other in ["--device=cpu", "--cpu"] {
        assert!(refusal(&["serve", other, "--cuda-device", "1"], &[]).contains("cannot be used with"));
    }
    assert_eq!(with(&["serve", "--cpu"], &[("COMFYD_DEVICE", "cuda:1")]).unwrap().devices, these(&[Device::Cpu]));
}

#[test]
fn caches() {
    assert_eq!(serve(&["--cache-none"]).cache, Cache::Off);
    assert_eq!(serve(&["--cache-lru", "9"]).cache, Cache::Lru(9));
    assert_eq!(serve(&["--cache-lru", "0"]).cache, Cache::Classic);
    assert!(refusal(&["serve", "--cache-lru", "1", "--cache-none"], &[]).contains("cannot be used with"));
    assert_eq!(serve(&["--cache-memory", "1.5G"]).cache_memory_bytes, Some(3 << 29));
    assert_eq!(with(&["serve", "--cache-classic"], &[("COMFYD_CACHE_NONE", "1")]).unwrap().cache, Cache::Classic);
}

#[test]
fn amounts_of_memory() {
    for (text, bytes) in [("7", 7), ("2K", 2048), ("512 MiB", 512 << 20), ("8g", 8 << 30), ("1T", 1 << 40)] {
        assert_eq!(args::bytes(text), Ok(bytes), "{text}");
    }
    for bad in ["", "G", "-1", "8X", "1e3", "99999999T", "1.2.3K"] {
        assert!(args::bytes(bad).unwrap_err().contains("8G"), "{bad}");
    }
}

#[test]
fn front_end_versions() {
    for text in ["1.58.1", "v1.58.1", "Comfy-Org/ComfyUI_frontend@1.58.1", "comfy-org/ComfyUI_frontend@v1.58.1"] {
        assert_eq!(serve(&["--front-end-version", text]).front_end_version.as_deref(), Some("1.58.1"), "{text}");
    }
    assert_eq!(serve(&["--front-end-version", "Comfy-Org/ComfyUI_frontend@latest"]).front_end_version.as_deref(), Some("latest"));
    assert!(refusal(&["serve", "--front-end-version", "other/repo@1"], &[]).contains("--front-end-root"));
    assert!(refusal(&["serve", "--front-end-version", "../x"], &[]).contains("such as 1.58.1"));
}

#[test]
fn folders_are_absolute() {
    let config = serve(&["--base-directory", "b", "--output-directory", "/out", "--temp-directory", "t"]);
    assert_eq!(config.roots.base, Path::new("/here/b"));
    assert_eq!(config.roots.input, Path::new("/here/b/input"));
    assert_eq!(config.roots.output, Path::new("/out"));
    assert_eq!(config.roots.temp, Path::new("/here/t/temp"));
    let config = serve(&["--extra-model-paths-config", "a.yaml", "/b.yaml", "--extra-model-paths-config", "c.yaml"]);
    assert_eq!(config.extra_model_paths, [Path::new("/here/a.yaml"), Path::new("/b.yaml"), Path::new("/here/c.yaml")]);
    assert!(matches!(with(&["serve", "--tls-keyfile", "k"], &[]), Err(Error::HalfTls("tls-certfile"))));
    let tls = with(&["serve", "--tls-keyfile", "k"], &[("COMFYD_TLS_CERTFILE", "c")]).unwrap().tls.unwrap();
    assert_eq!((tls.key.as_path(), tls.certificates.as_path(), tls.client_ca), (Path::new("/here/k"), Path::new("/here/c"), None));
    assert!(matches!(with(&["serve", "--tls-client-ca", "a"], &[]), Err(Error::NoTls)));
    let tls = with(&["serve", "--tls-keyfile", "k", "--tls-certfile", "c", "--tls-client-ca", "a"], &[]).unwrap().tls.unwrap();
    assert_eq!(tls.client_ca.unwrap(), Path::new("/here/a"));
}

#[test]
fn command_line_before_environment_before_file_before_default() {
    let (_folder, path) = file("port = 3\npreview-size = 30\nhistory-limit = 300\ncache-lru = 5\nmulti-user = true\n");
    let env = [("COMFYD_CONFIG", path.as_str()), ("COMFYD_PORT", "2"), ("COMFYD_PREVIEW_SIZE", "20"), ("COMFYD_CACHE_NONE", "true")];
    let config = with(&["serve", "--port", "1"], &env).unwrap();
    assert_eq!((config.port, config.preview_size, config.history_limit, config.queue_limit), (1, 20, 300, 10_000));
    assert_eq!(config.cache, Cache::Off);
    assert!(config.multi_user);
    assert_eq!(with(&["serve", "--config", &path], &[]).unwrap().cache, Cache::Lru(5));
    assert_eq!(with(&["serve"], &[("COMFYD_PORT", "")]).unwrap().port, 8188);
}

#[test]
fn lists_replace_lists() {
    let (folder, path) =
        file("download-host = [\"c\", \"d\"]\nlisten = [\"::1\", \"127.0.0.1\"]\nextra-model-paths-config = [\"x.yaml\"]\n");
    let config = with(&["serve", "--config", &path], &[]).unwrap();
    assert_eq!(config.download_hosts, ["c", "d"]);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.extra_model_paths, [folder.path().join("x.yaml")]);
    let env = [("COMFYD_DOWNLOAD_HOST", "b,e"), ("COMFYD_EXTRA_MODEL_PATHS_CONFIG", "/1.yaml:2.yaml")];
    let config = with(&["serve", "--config", &path], &env).unwrap();
    assert_eq!(config.download_hosts, ["b", "e"]);
    assert_eq!(config.extra_model_paths, [Path::new("/1.yaml"), Path::new("/here/2.yaml")]);
    assert_eq!(with(&["serve", "--config", &path, "--download-host", "a"], &env).unwrap().download_hosts, ["a"]);
}

#[test]
fn errors_say_where_they_come_from() {
    let (_folder, path) = file("prot = 3\n");
    assert!(refusal(&["serve", "--config", &path], &[]).ends_with("there is no option `prot`; did you mean `port`?"));
    let (_folder, path) = file("preview_size = 3\n");
    assert!(refusal(&["nodes", "--config", &path], &[]).contains("did you mean `preview-size`?"));
    let (_folder, path) = file("port = 99999\n");
    assert!(refusal(&["serve", "--config", &path], &[]).contains("comfyd.toml, key port: "));
    let (_folder, path) = file("multi-user = 1\n");
    assert!(refusal(&["serve", "--config", &path], &[]).contains("key multi-user: must be true or false"));
    let (_folder, path) = file("port = \n");
    assert!(matches!(with(&["serve", "--config", &path], &[]), Err(Error::Toml { .. })));
    assert!(refusal(&["serve", "--config", "gone.toml"], &[]).contains("/here/gone.toml"));
    assert!(refusal(&["serve"], &[("COMFYD_PORT", "x")]).starts_with("COMFYD_PORT: invalid value 'x'"));
    assert!(refusal(&["serve"], &[("COMFYD_MULTI_USER", "maybe")]).starts_with("COMFYD_MULTI_USER: "));
}

#[test]
fn other_commands() {
    let (_folder, path) = file("port = 3\nbase-directory = \"/base\"\npreview-method = \"auto\"\n");
    let config = with(&["run", "w.json", "--set", "3.seed=7", "--set", "12:4.a.b=x=y", "--output", "o", "--config", &path], &[]).unwrap();
    let set = vec![
        SetInput { node: "3".into(), input: "seed".into(), value: 7.into() },
        SetInput { node: "12:4".into(), input: "a.b".into(), value: "x=y".into() },
    ];
    assert_eq!(config.action, Action::Run { workflow: "/here/w.json".into(), set });
    assert_eq!((config.roots.output.as_path(), config.roots.base.as_path()), (Path::new("/here/o"), Path::new("/base")));
    assert_eq!(config.preview_method, PreviewMethod::Auto);
    assert!(refusal(&["run", "w.json", "--set", "seed=7"], &[]).contains("3.seed=7"));
    assert!(refusal(&["run", "w.json", "--port", "7"], &[]).contains("--port"));
    assert_eq!(with(&["nodes", "KSampler"], &[]).unwrap().action, Action::Nodes { class: Some("KSampler".into()) });
    let config = with(&["frontend", "install", "v1.2.3", "--with-docs"], &[("COMFYD_BASE_DIRECTORY", "/x")]).unwrap();
    assert_eq!(
        config.action,
        Action::InstallFrontEnd { version: Some("1.2.3".into()), docs: true, templates: Templates::None, blueprints: false }
    );
    assert_eq!(config.roots.base, Path::new("/x"));
    let db = |args: &[&str]| with(&[&["db"], args].concat(), &[("COMFYD_FORCE", "true")]).unwrap().action;
    assert_eq!(db(&["check"]), Action::Db(DbAction::Check(None)));
    assert_eq!(db(&["check", "b.db"]), Action::Db(DbAction::Check(Some("/here/b.db".into()))));
    assert_eq!(db(&["backup", "b.db"]), Action::Db(DbAction::Backup { file: "/here/b.db".into(), force: false }));
    assert_eq!(db(&["restore", "/b.db", "--force"]), Action::Db(DbAction::Restore { file: "/b.db".into(), force: true }));
}

#[test]
fn a_comfyui_is_the_base_folder_unless_another_is_named() {
    let config = serve(&["--comfyui", "ComfyUI"]);
    let python = config.python.as_ref().unwrap();
    assert_eq!((&python.comfyui, &config.roots.user), (&"/here/ComfyUI".into(), &"/here/ComfyUI/user".into()));
    assert_eq!(
        (python.start, python.placement, python.network, python.memory),
        (PythonStart::Eager, Placement::Auto, Network::Allow, None)
    );
    assert_eq!([python.start_timeout, python.interrupt_timeout, python.kill_timeout].map(|time| time.as_secs()), [180, 10, 60]);
    assert_eq!(config.front_end_base, Path::new("/home/a/.local/share/comfyd"), "nothing is downloaded into the checkout");
    let config = serve(&["--comfyui", "/c", "--base-directory", "b", "--python", "venv/bin/python"]);
    assert_eq!((config.roots.base.as_path(), config.front_end_base.as_path()), (Path::new("/here/b"), Path::new("/here/b")));
    assert_eq!(config.python.unwrap().python.as_deref(), Some(Path::new("/here/venv/bin/python")));
    assert_eq!(serve(&[]).python, None);
}

#[test]
fn comfyuis_own_options_are_handed_on() {
    let args = [
        "--comfyui=/c",
        "--fast",
        "fp16_accumulation",
        "cublas_ops",
        "--lowvram",
        "--reserve-vram",
        "0.5",
        "--async-offload",
        "--cache-lru=3",
    ];
    let python = serve(&args).python.unwrap();
    assert_eq!(python.args, ["--async-offload", "--fast", "fp16_accumulation", "cublas_ops", "--lowvram", "--reserve-vram", "0.5"]);
    let packs = [
        "--comfyui=/c",
        "--disable-all-custom-nodes",
        "--whitelist-custom-nodes",
        "a",
        "b",
        "--models-directory",
        "m",
        "--python-arg=--new=1",
    ];
    let python = serve(&packs).python.unwrap();
    assert_eq!((python.disable_packs, python.whitelist), (true, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(python.args, ["--new=1"]);
    assert_eq!(serve(&packs).roots.models, Path::new("/here/m"));
    assert!(serve(&packs).unused.is_empty());
    assert_eq!(serve(&["--comfyui=/c", "--auto-launch", "--lowvram"]).python.unwrap().args, ["--lowvram"]);
    let alone = serve(&["--lowvram", "--default-device", "0", "--fast"]);
    assert_eq!(alone.python, None);
    assert_eq!(alone.unused.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["default-device", "fast", "lowvram"]);
    assert!(alone.unused[2].1.contains("--memory-budget"));
    assert!(refusal(&["serve", "--comfyui=/c", "--no-such-option"], &[]).contains("--no-such-option"));
    let env = [("COMFYD_COMFYUI", "/c"), ("COMFYD_LOWVRAM", "1"), ("COMFYD_PLACEMENT", "python"), ("COMFYD_PYTHON_START", "lazy")];
    let python = with(&["serve"], &env).unwrap().python.unwrap();
    assert_eq!((python.args, python.placement, python.start), (vec!["--lowvram".to_owned()], Placement::Python, PythonStart::Lazy));
}

/// So that whoever started ComfyUI with an option starts this program with the same.
#[test]
fn every_option_of_comfyui_is_taken() {
    const NONE: [&str; 76] = [
        "async-offload",
        "auto-launch",
        "bf16-text-enc",
        "bf16-unet",
        "bf16-vae",
        "cache-classic",
        "cache-none",
        "cache-ram",
        "cpu",
        "cpu-vae",
        "cuda-malloc",
        "debug-hang",
        "deterministic",
        "directml",
        "disable-all-custom-nodes",
        "disable-api-nodes",
        "disable-async-offload",
        "disable-auto-launch",
        "disable-cuda-graphs",
        "disable-cuda-malloc",
        "disable-dynamic-vram",
        "disable-manager-ui",
        "disable-metadata",
        "disable-mmap",
        "disable-nvml-pressure",
        "disable-pinned-memory",
        "disable-smart-memory",
        "disable-triton-backend",
        "disable-xformers",
        "dont-print-server",
        "dont-upcast-attention",
        "enable-asset-hashing",
        "enable-assets",
        "enable-compress-response-body",
        "enable-cors-header",
        "enable-dynamic-vram",
        "enable-manager",
        "enable-manager-legacy-ui",
        "enable-triton-backend",
        "fast",
        "fast-disk",
        "force-channels-last",
        "force-fp16",
        "force-fp32",
        "force-non-blocking",
        "force-upcast-attention",
        "fp16-intermediates",
        "fp16-text-enc",
        "fp16-unet",
        "fp16-vae",
        "fp32-text-enc",
        "fp32-unet",
        "fp32-vae",
        "fp64-unet",
        "fp8_e4m3fn-text-enc",
        "fp8_e4m3fn-unet",
        "fp8_e5m2-text-enc",
        "fp8_e5m2-unet",
        "fp8_e8m0fnu-unet",
        "gpu-only",
        "high-ram",
        "highvram",
        "list-feature-flags",
        "listen",
        "log-stdout",
        "lowvram",
        "mmap-torch-files",
        "multi-user",
        "normalvram",
        "novram",
        "quick-test-for-ci",
        "supports-fp8-compute",
        "use-ck-attention",
        "use-sage-attention",
        "verbose",
        "windows-standalone-build",
    ];
    const ONE: [(&str, &str); 30] = [
        ("base-directory", "b"),
        ("cache-lru", "3"),
        ("cache-ram", "4"),
        ("comfy-api-base", "https://api"),
        ("cuda-device", "0"),
        ("database-url", "sqlite:///:memory:"),
        ("default-device", "1"),
        ("default-hashing-function", "md5"),
        ("directml", "0"),
        ("enable-cors-header", "*"),
        ("extra-model-paths-config", "a.yaml"),
        ("fast", "autotune"),
        ("feature-flag", "a=b"),
        ("front-end-root", "r"),
        ("front-end-version", "comfyanonymous/ComfyUI@latest"),
        ("input-directory", "i"),
        ("listen", "::1"),
        ("max-upload-size", "7.5"),
        ("models-directory", "m"),
        ("oneapi-device-selector", "s"),
        ("output-directory", "o"),
        ("port", "1"),
        ("preview-method", "auto"),
        ("preview-size", "64"),
        ("reserve-vram", "1.5"),
        ("temp-directory", "t"),
        ("user-directory", "u"),
        ("verbose", "DETAIL"),
        ("vram-headroom", "0.5"),
        ("whitelist-custom-nodes", "pack"),
    ];
    for option in NONE {
        assert!(with(&["serve", &format!("--{option}")], &[]).is_ok(), "{option}");
    }
    for (option, value) in ONE {
        assert!(with(&["serve", &format!("--{option}"), value], &[]).is_ok(), "{option}");
    }
    assert_eq!(serve(&["--front-end-version", ONE[14].1]).front_end_version.as_deref(), Some(crate::frontend::PINNED_VERSION));
}

#[test]
fn environments_and_preferences_are_read_from_the_file() {
    let (folder, path) = file(
        r#"
        comfyui = "ComfyUI"
        fast = ["fp16_accumulation"]
        [python]
        path = "venv/bin/python"
        [[python.env]]
        name = "old"
        packs = ["pack_a"]
        args = ["--cpu"]
        [[python.env]]
        name = "other"
        comfyui = "/other"
        python = "/other/venv/bin/python"
        [python.prefer]
        KSampler = "python"
        SaveImage = "old"
        "#,
    );
    let python = serve(&["--config", &path]).python.unwrap();
    let inside = |name: &str| folder.path().join(name);
    assert_eq!((&python.comfyui, python.python.as_ref()), (&inside("ComfyUI"), Some(&inside("venv/bin/python"))));
    assert_eq!(python.args, ["--fast", "fp16_accumulation"]);
    let told: Vec<_> =
        python.environments.iter().map(|env| (env.name.as_str(), env.comfyui.clone(), env.python.clone().unwrap())).collect();
    assert_eq!(told, [("old", inside("ComfyUI"), inside("venv/bin/python")), ("other", "/other".into(), "/other/venv/bin/python".into())]);
    assert_eq!(
        (&python.environments[0].packs[..], &python.environments[0].args[..]),
        (&["pack_a".to_owned()][..], &["--cpu".to_owned()][..])
    );
    assert_eq!((python.prefer["KSampler"].as_str(), python.prefer["SaveImage"].as_str()), ("python", "old"));
    for (content, part) in [
        ("comfyui = \"/c\"\n[[python.env]]\nname = \"a\"\n[[python.env]]\nname = \"a\"", "the environment's name `a` is taken"),
        ("comfyui = \"/c\"\n[[python.env]]\nname = \"native\"", "is taken"),
        ("comfyui = \"/c\"\n[[python.env]]\nname = \"a b\"", "letters, digits"),
        ("comfyui = \"/c\"\n[[python.env]]\nname = \"a\"\npack = []", "unknown field `pack`"),
        ("comfyui = \"/c\"\n[python.prefer]\nKSampler = \"gpu\"", "`gpu` is neither native, python nor an environment"),
        ("[[python.env]]\nname = \"a\"", "the table `python` of the configuration file is about ComfyUI's process"),
        ("comfyui = \"/c\"\npython = 3.5\n[python.env]", "TOML parse error"),
    ] {
        let (_folder, path) = file(content);
        let message = refusal(&["serve", "--config", &path], &[]);
        assert!(message.contains(part), "{message}");
    }
    // A path alone is the option.
    let (folder, path) = file("comfyui = \"/c\"\npython = \"bin/python\"");
    assert_eq!(serve(&["--config", &path]).python.unwrap().python, Some(folder.path().join("bin/python")));
}

#[test]
fn what_a_cluster_has_needs_one_and_what_it_cannot_use_is_said() {
    let cluster = ["--cluster", "nats://127.0.0.1:4222"];
    let of = |more: &[&str]| serve(&[&cluster[..], more].concat());
    assert_eq!(of(&["--files", "nats"]).files.unwrap().place, FILES_IN_NATS);
    assert_eq!(of(&[]).files.unwrap().place, FILES_IN_NATS, "hosts need not share a folder");
    assert!(of(&["--files", "folders"]).files.is_none() && serve(&[]).files.is_none() && serve(&["--files", "folders"]).files.is_none());
    let worker = with(&[&["worker"], &cluster[..]].concat(), &[]).unwrap();
    assert_eq!(worker.files.unwrap().place, FILES_IN_NATS);
    assert!(serve(&["--files", "./nats"]).files.unwrap().place.ends_with("/nats"), "a folder of that name");
    assert!(refusal(&["serve", "--files", "nats"], &[]).contains("--cluster"));
    let config = of(&["--enable-assets"]);
    assert!(config.assets.is_none() && config.unused.iter().any(|(option, _)| *option == "enable-assets"));
    assert!(serve(&["--enable-assets"]).assets.is_some());
    assert!(refusal(&["serve", "--enable-assets", "--files", "/mnt"], &[]).contains("--files"));
}
