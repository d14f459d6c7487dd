//! HTTPS with clients' certificates: who shows none, another's or one that was taken back is not let in.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use reqwest::{Client, Identity};

/// An authority that signs certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key.
    fn sign(&self, name: &str, serial: u64, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A list of one certificate that is good no more.
    fn take_back(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn only_clients_with_a_certificate_are_let_in() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let base = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(base.path().join(name), text).unwrap();
        base.path().join(name).display().to_string()
    };
    let (authority, other) = (Authority::new(), Authority::new());
    let (certificate, key) = authority.sign("127.0.0.1", 1, ExtendedKeyUsagePurpose::ServerAuth);
    let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
    let clients = file("clients.pem", &format!("{}{}", authority.pem, authority.take_back(3)));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let command = |clients: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_comfyd"));
        let options = ["--tls-certfile", &certificate, "--tls-keyfile", &key, "--tls-client-ca", clients, "--front-end", "none"];
        command.arg("serve").args(options).args(["--port", &port, "--base-directory"]).arg(base.path()).stderr(Stdio::piped());
        command
    };
    for (text, wrong) in [("", "holds no certificate"), ("-----BEGIN CERTIFICATE-----\nx", "cannot be used")] {
        let refused = command(&file("wrong.pem", text)).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("wrong.pem") && said.contains(wrong), "{said}");
    }

    let _server = Stopped(command(&clients).stderr(Stdio::null()).spawn().unwrap());
    let url = format!("https://127.0.0.1:{port}/queue");
    let client = |shown: Option<(String, String)>| {
        let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
        let builder = Client::builder().add_root_certificate(root).tls_built_in_root_certs(false);
        let identity = shown.map(|(certificate, key)| Identity::from_pem(format!("{key}{certificate}").as_bytes()).unwrap());
        identity.into_iter().fold(builder, reqwest::ClientBuilder::identity).build().unwrap()
    };
    let good = client(Some(authority.sign("ann", 2, ExtendedKeyUsagePurpose::ClientAuth)));
    let start = Instant::now();
    while good.get(&url).send().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(30), "the server did not answer");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = [
        ("none", None),
        ("another's", Some(other.sign("ann", 2, ExtendedKeyUsagePurpose::ClientAuth))),
        ("one that was taken back", Some(authority.sign("bob", 3, ExtendedKeyUsagePurpose::ClientAuth))),
        ("a server's", Some(authority.sign("127.0.0.1", 4, ExtendedKeyUsagePurpose::ServerAuth))),
    ];
    for (what, shown) in refused {
        assert!(client(shown).get(&url).send().await.is_err(), "{what}");
    }
    assert_eq!(good.get(&url).send().await.unwrap().status(), 200);
    // It stands for no key.
    add_key(base.path());
    while good.get(&url).send().await.unwrap().status() != 401 {
        assert!(start.elapsed() < Duration::from_secs(60), "no key is asked for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn add_key(base: &Path) {
    let added = Command::new(env!("CARGO_BIN_EXE_comfyd")).args(["key", "add", "ann", "--base-directory"]).arg(base).output().unwrap();
    assert!(added.status.success());
}
