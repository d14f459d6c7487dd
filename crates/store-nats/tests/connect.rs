//! How NATS is reached: tokens, users with a password, TLS with certificates of one's own, and what is said where that fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use comfyd_store_nats::{Connection, Error, Link, NatsStore, Options};
use common::testing::Servers;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

async fn joins(connection: &Connection) -> Result<(), Error> {
    let link = Link::connect(connection, "test").await?;
    NatsStore::open(&link, Options::default()).await.map(drop)
}

fn start(folder: &Path, more: &str) -> Option<(Servers, Connection)> {
    let servers = Servers::start(&common::program()?, folder, 1, more).unwrap();
    let connection = Connection { servers: servers.addresses(), ..Connection::default() };
    Some((servers, connection))
}

#[tokio::test]
async fn a_token_lets_in() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_servers, connection)) = start(folder.path(), "authorization { token: s3cr3t }") else { return };
    for token in [None, Some("wrong".to_owned())] {
        let refused = joins(&Connection { token, ..connection.clone() }).await;
        assert!(matches!(refused, Err(Error::Unreachable { .. })), "{refused:?}");
    }
    joins(&Connection { token: Some("s3cr3t".to_owned()), ..connection }).await.unwrap();
}

#[tokio::test]
async fn a_password_in_the_address_lets_in() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_servers, connection)) = start(folder.path(), "authorization { user: me, password: s3cr3t }") else { return };
    let servers = connection.servers.iter().map(|server| server.replace("nats://", "nats://me:s3cr3t@")).collect();
    joins(&Connection { servers, ..connection.clone() }).await.unwrap();
    let told = joins(&connection).await.unwrap_err().to_string();
    assert!(told.contains("check --cluster and the credentials") && !told.contains("s3cr3t"), "{told}");
}

#[tokio::test]
async fn certificates_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut root = CertificateParams::new(Vec::<String>::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(file("ca.pem"), root.pem()).unwrap();
    for (name, usage) in [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        std::fs::write(file(&format!("{name}.pem")), params.signed_by(&key, &root).unwrap().pem()).unwrap();
        std::fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let [certificate, key, ca] = ["server.pem", "server.key", "ca.pem"].map(|name| file(name).display().to_string());
    let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    let Some((_servers, connection)) = start(folder.path(), &tls) else { return };
    let trusting = Connection { ca: Some(file("ca.pem")), ..connection.clone() };
    for refused in [&connection, &trusting] {
        assert!(joins(refused).await.is_err(), "the server trusts whom it was told to, and so does the client");
    }
    joins(&Connection { certificate: Some((file("client.pem"), file("client.key"))), ..trusting }).await.unwrap();
}

#[tokio::test]
async fn what_is_no_address_is_told() {
    for (servers, told) in [(vec![], "no address of NATS is given"), (vec!["http://here:4222".to_owned()], "write nats://host:4222")] {
        let error = joins(&Connection { servers, ..Connection::default() }).await.unwrap_err();
        assert!(matches!(&error, Error::Options(text) if text.contains(told)), "{error:?}");
    }
    let missing =
        Connection { servers: vec!["nats://127.0.0.1:1".to_owned()], credentials: Some("/none.creds".into()), ..Connection::default() };
    assert!(joins(&missing).await.unwrap_err().to_string().contains("/none.creds"));
}
