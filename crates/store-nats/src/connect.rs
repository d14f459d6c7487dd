//! The connection to NATS: addresses, credentials, certificates. It tells of every time that it is made.

use std::sync::Arc;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;

use crate::error::Error;
use crate::options::Connection;

/// A connection to NATS, which comes back by itself for as long as anybody has it. Clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) client: Client,
    /// Grows each time that it is made.
    pub(crate) connections: watch::Receiver<u64>,
}

impl Link {
    /// Connects. `name` is what NATS calls it.
    ///
    /// # Errors
    /// [`Error::Options`] and [`Error::Unreachable`].
    pub async fn connect(connection: &Connection, name: &str) -> Result<Self, Error> {
        // What is told of an address is not who may use it.
        let hidden = |server: &String| match (server.split_once("://"), server.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => server.clone(),
        };
        let servers = connection.servers.iter().map(hidden).collect::<Vec<_>>().join(",");
        let addresses: Result<Vec<async_nats::ServerAddr>, _> = connection.servers.iter().map(|server| server.parse()).collect();
        let addresses = addresses.map_err(|error| {
            Error::Options(format!("'{servers}' are no addresses of NATS ({error}): write nats://host:4222,nats://other:4222"))
        })?;
        let user = addresses.iter().find_map(|address| Some((address.username()?.to_owned(), address.password()?.to_owned())));
        if addresses.is_empty() {
            return Err(Error::Options("no address of NATS is given: write nats://host:4222".to_owned()));
        }
        let (sender, connections) = watch::channel(0_u64);
        let sender = Arc::new(sender);
        let told = move |event: Event| {
            match &event {
                Event::Connected => {
                    tracing::info!("NATS is connected");
                    sender.send_modify(|count| *count += 1);
                }
                Event::Disconnected => tracing::warn!("NATS is not connected: what comes is refused until it is, what runs goes on"),
                Event::ServerError(error) => tracing::warn!(%error, "NATS reports an error"),
                Event::ClientError(error) => tracing::debug!(%error, "an attempt to connect to NATS failed"),
                Event::SlowConsumer(_) => tracing::warn!("this process does not keep up with what NATS sends: something is left out"),
                Event::LameDuckMode | Event::Draining | Event::Closed => {}
            }
            std::future::ready(())
        };
        let mut options = ConnectOptions::new()
            .name(name)
            .event_callback(told)
            .ping_interval(std::time::Duration::from_secs(5))
            .connection_timeout(std::time::Duration::from_secs(3))
            .reconnect_delay_callback(|attempts| std::time::Duration::from_millis((attempts as u64 * 50).min(1000)));
        if let Some(file) = &connection.credentials {
            options = options
                .credentials_file(file)
                .await
                .map_err(|error| Error::Options(format!("the credentials '{}' cannot be read: {error}", file.display())))?;
        }
        if let Some(token) = &connection.token {
            options = options.token(token.clone());
        }
        if let Some((user, password)) = user {
            options = options.user_and_password(user, password);
        }
        if let Some(ca) = &connection.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &connection.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
        }
        let client = options.connect(addresses).await.map_err(|error| Error::Unreachable { servers, detail: error.to_string() })?;
        Ok(Self { client, connections })
    }

    /// Whether it is there now, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How many messages and bytes went in and out: for measurements.
    pub fn traffic(&self) -> [u64; 4] {
        use std::sync::atomic::Ordering::Relaxed;
        let statistics = self.client.statistics();
        [
            statistics.in_messages.load(Relaxed),
            statistics.in_bytes.load(Relaxed),
            statistics.out_messages.load(Relaxed),
            statistics.out_bytes.load(Relaxed),
        ]
    }
}
