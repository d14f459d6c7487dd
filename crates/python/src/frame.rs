//! Frames between comfyd and a worker: `u32 length of JSON, u32 length of blob` (little endian), JSON, blob. Knows nothing of what messages
//! mean but that tensors told under `p` lie in the blob.
//!
//! Two forms of values beside those of the design: `{"i": "digits"}` is an integer beyond 64 bits, which readers of JSON round; and
//! `{"p": …, "put": number}` is a value of this process that the worker keeps under that number until the prompt ends, so that
//! `{"put": number}` is enough the next time.

use std::io::{self, Read, Write};

use comfyd_memory::{Account, Lease, OutOfMemory};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::portable::{Piece, Tensors, places};

/// The largest JSON of a frame, in bytes.
const MAX_JSON: u64 = 64 << 20;
/// The length of both lengths.
const HEAD: usize = 8;

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The other side is gone.
    #[error("the connection ended")]
    End,
    /// What came is no frame.
    #[error("it sent what is no message ({0})")]
    Bad(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::End,
            _ => Self::Io(error),
        }
    }
}

/// What lay behind the JSON.
#[derive(Debug)]
pub(crate) enum Blob {
    /// Bytes, perhaps none.
    Bytes(Vec<u8>),
    /// The tensors that the JSON tells of.
    Tensors(Tensors),
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Frame {
    /// An object.
    pub json: Json,
    /// What it brought along.
    pub blob: Blob,
    /// What that takes of this process's memory.
    _room: Option<Lease>,
}

impl Frame {
    /// What stands in place of an answer for which there was too little memory; a message that answers nothing is `None`.
    fn refused(json: &Json, refused: &OutOfMemory) -> Option<Self> {
        let error = json!({"type": "torch.OutOfMemoryError", "message": refused.to_string(), "oom": true});
        let json = json!({"re": json.get("re")?, "error": error});
        Some(Self { json, blob: Blob::Bytes(Vec::new()), _room: None })
    }
}

/// Reads the next frame; waits for it. An answer for which there is too little memory becomes an error that says so.
pub(crate) fn read(stream: &mut impl Read, max_blob: u64, account: &Account) -> Result<Frame, Error> {
    let mut head = [0; HEAD];
    stream.read_exact(&mut head)?;
    let [a, b, c, d, e, f, g, h] = head;
    let (json_len, blob_len) = (u64::from(u32::from_le_bytes([a, b, c, d])), u64::from(u32::from_le_bytes([e, f, g, h])));
    if json_len > MAX_JSON {
        return Err(Error::Bad(format!("{json_len} bytes of JSON, of which {MAX_JSON} are allowed")));
    }
    if blob_len > max_blob {
        return Err(Error::Bad(format!("a value of {blob_len} bytes, of which {max_blob} are allowed")));
    }
    let mut text = vec![0; json_len as usize];
    stream.read_exact(&mut text)?;
    let json = comfyd_wire::json::read(&text).map_err(|error| Error::Bad(error.to_string()))?;
    if !json.is_object() {
        return Err(Error::Bad("its JSON is not an object".into()));
    }
    let room = match account.reserve(blob_len) {
        Ok(room) => room,
        Err(refused) => {
            skip(stream, blob_len)?;
            return Frame::refused(&json, &refused).ok_or_else(|| Error::Bad(refused.to_string()));
        }
    };
    let blob = match json.get("p") {
        Some(portable) => Blob::Tensors(tensors(stream, portable, blob_len)?),
        None => {
            let mut bytes = vec![0; blob_len as usize];
            stream.read_exact(&mut bytes)?;
            Blob::Bytes(bytes)
        }
    };
    Ok(Frame { json, blob, _room: Some(room) })
}

/// Reads each tensor into memory of its own.
fn tensors(stream: &mut impl Read, portable: &Json, blob_len: u64) -> Result<Tensors, Error> {
    let mut tensors = Tensors::default();
    let mut at = 0;
    for place in places(portable).map_err(Error::Bad)? {
        let end = place.at.checked_add(place.len).filter(|end| place.at >= at && *end <= blob_len);
        let Some(end) = end else { return Err(Error::Bad("tensors that overlap or lie outside of what came".into())) };
        skip(stream, place.at - at)?;
        at = end;
        tensors.read(place, |memory| stream.read_exact(memory))?;
    }
    skip(stream, blob_len - at)?;
    Ok(tensors)
}

fn skip(stream: &mut impl Read, count: u64) -> io::Result<()> {
    io::copy(&mut stream.by_ref().take(count), &mut io::sink()).map(drop)
}

/// A message in the making.
pub(crate) struct Message {
    /// The head, whose place is kept, and the JSON but for its end.
    text: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Message {
    /// An empty message.
    pub fn new(op: &str) -> Self {
        let mut text = Vec::with_capacity(256);
        text.extend([0; HEAD]);
        text.extend(b"{\"op\":");
        let mut message = Self { text, pieces: Vec::new() };
        message.write(&op);
        message
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Self {
        self.push(name, value);
        self
    }

    /// Adds what the fields' tensors lie in.
    pub fn pieces(mut self, pieces: Vec<Piece>) -> Self {
        self.pieces = pieces;
        self
    }

    fn push(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.text.push(b',');
        self.write(&name);
        self.text.push(b':');
        self.write(value);
    }

    fn write(&mut self, value: &(impl Serialize + ?Sized)) {
        let start = self.text.len();
        // Only keys that are no texts cannot be written, and no message has such.
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.text.truncate(start);
            self.text.extend(b"null");
        }
    }

    /// It as a text of JSON, without what its tensors lie in.
    pub fn into_text(mut self) -> Result<String, std::string::FromUtf8Error> {
        self.text.push(b'}');
        String::from_utf8(self.text.split_off(HEAD))
    }

    /// Whether it is small enough to be sent; the error is a sentence.
    pub fn check(&self) -> Result<(), String> {
        let blob: u64 = self.pieces.iter().map(|piece| piece.bytes().len() as u64).sum();
        if self.text.len() as u64 > MAX_JSON || blob > u64::from(u32::MAX) {
            return Err(format!("the inputs are too large for the Python worker: {} bytes of JSON, {blob} of tensors", self.text.len()));
        }
        Ok(())
    }

    /// Sends it, with its id, if it is answered, and the handles that are no longer used.
    pub fn send(mut self, stream: &mut impl Write, id: Option<u64>, release: &[u64]) -> io::Result<()> {
        if let Some(id) = id {
            self.push("id", &id);
        }
        if !release.is_empty() {
            self.push("release", release);
        }
        self.text.push(b'}');
        let blob: usize = self.pieces.iter().map(|piece| piece.bytes().len()).sum();
        let json_len = u32::try_from(self.text.len() - HEAD).unwrap_or(u32::MAX);
        self.text[..4].copy_from_slice(&json_len.to_le_bytes());
        self.text[4..HEAD].copy_from_slice(&u32::try_from(blob).unwrap_or(u32::MAX).to_le_bytes());
        stream.write_all(&self.text)?;
        for piece in &self.pieces {
            stream.write_all(piece.bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use comfyd_node::Value;
    use comfyd_values::Mask;

    use super::*;
    use crate::portable::pack;

    fn bytes(json: &str, blob: &[u8]) -> Vec<u8> {
        let mut bytes = [(json.len() as u32).to_le_bytes(), (blob.len() as u32).to_le_bytes()].concat();
        bytes.extend(json.as_bytes());
        bytes.extend(blob);
        bytes
    }

    #[test]
    fn what_is_sent_is_read() {
        let (portable, pieces) = pack(&Value::object(Mask::solid(1, 2, 2, 0.25)), 0).unwrap();
        let mut sent = Vec::new();
        let message = Message::new("put").field("p", &portable).field("n", &1.0).pieces(pieces);
        message.check().unwrap();
        message.send(&mut sent, Some(7), &[3, 4]).unwrap();
        let frame = read(&mut sent.as_slice(), 1 << 20, &Account::unbounded()).unwrap();
        assert_eq!(frame.json["id"], json!(7));
        assert_eq!(frame.json["release"], json!([3, 4]));
        assert!(String::from_utf8_lossy(&sent).contains("\"n\":1.0"), "a float stays one");
        let Blob::Tensors(tensors) = frame.blob else { panic!("no tensors") };
        let mask = crate::portable::unpack(&frame.json["p"], tensors, "MASK").unwrap();
        assert_eq!(*Value::Object(mask).downcast::<Mask>().unwrap(), Mask::solid(1, 2, 2, 0.25));
    }

    #[test]
    fn what_is_no_frame_is_told() {
        let check = |bytes: &[u8], expected: &str| {
            let error = read(&mut &*bytes, 16, &Account::unbounded()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(b"", "ended");
        check(b"GET / HTTP/1.1\r\n\r\n", "of JSON");
        check(&bytes("{}", &[0; 17]), "17 bytes, of which 16");
        check(&bytes("{", b""), "no message");
        check(&bytes("[]", b""), "not an object");
        let tensor = |at: u64, len: u64| json!({"dtype": "uint8", "shape": [len], "at": at, "len": len});
        let text = json!({"p": {"tensors": {"a": tensor(0, 4), "b": tensor(2, 4)}}}).to_string();
        check(&bytes(&text, &[0; 8]), "overlap");
        let text = json!({"p": {"tensors": {"a": tensor(6, 4)}}}).to_string();
        check(&bytes(&text, &[0; 8]), "outside");
        assert!(read(&mut bytes("{\"a\": NaN}", &[1]).as_slice(), 16, &Account::unbounded()).is_ok(), "as Python writes it");
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_and_the_next_is_read() {
        let sent = [bytes("{\"re\": 7}", &[0; 64]), bytes("{\"re\": 8}", &[0; 8])].concat();
        let (mut stream, account) = (sent.as_slice(), Account::new(20));
        let frame = read(&mut stream, 1 << 20, &account).unwrap();
        assert_eq!((&frame.json["re"], &frame.json["error"]["oom"]), (&json!(7), &json!(true)));
        let frame = read(&mut stream, 1 << 20, &account).unwrap();
        assert_eq!((&frame.json, account.held()), (&json!({"re": 8}), 8));
    }
}
