//! The least HTTP client that keeps a connection: one request at a time, answers with a length or in chunks. Knows no address but its own.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Bodies up to this go out with their head.
const SMALL_BODY_BYTES: usize = 64 << 10;

const JSON: &str = "application/json";
/// What stands between the parts of a form; no text that is sent has it.
const BOUNDARY: &str = "comfyd-part";

/// A kept connection to a server.
pub(crate) struct Connection {
    host: String,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to `host:port`.
    pub(crate) async fn open(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        Ok(Self { host: host.to_owned(), stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// The body of a successful answer.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.send("GET", path, JSON, "").await
    }

    /// The body of a successful answer to a JSON body.
    pub(crate) async fn post(&mut self, path: &str, body: &str) -> io::Result<Vec<u8>> {
        self.send("POST", path, JSON, body).await
    }

    /// The body of a successful answer to a form with one file, whose content is a text.
    pub(crate) async fn upload(&mut self, path: &str, name: &str, content: &str) -> io::Result<Vec<u8>> {
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        let tags = format!("\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"tags\"\r\n\r\n[\"input\"]\r\n--{BOUNDARY}--\r\n");
        self.send("POST", path, &format!("multipart/form-data; boundary={BOUNDARY}"), &format!("{head}{content}{tags}")).await
    }

    async fn send(&mut self, method: &str, path: &str, kind: &str, body: &str) -> io::Result<Vec<u8>> {
        let (host, length) = (&self.host, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
        // At once where it is small; what is large is not copied, which would hold up others that are measured.
        if length < SMALL_BODY_BYTES {
            self.stream.get_mut().write_all(format!("{head}{body}").as_bytes()).await?;
        } else {
            self.stream.get_mut().write_all(head.as_bytes()).await?;
            self.stream.get_mut().write_all(body.as_bytes()).await?;
        }
        let status = self.line().await?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let body = if chunked { self.chunks().await? } else { self.exactly(length).await? };
        if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            return Ok(body);
        }
        Err(io::Error::other(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body))))
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(self.line().await?.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.exactly(size).await?);
            self.line().await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}
