//! What files say of themselves, such as the workflow that made them: handed to FFmpeg in a file of its own format, since one argument of a
//! program may have 128 KiB at most.

use std::io::Write;

use tempfile::NamedTempFile;

use crate::process::Args;
use crate::{Media, Result};

/// Tags on their way into a file.
pub(crate) struct Tags(NamedTempFile);

impl Tags {
    /// These, by their names.
    pub fn new(media: &Media, tags: &[(String, String)]) -> Result<Self> {
        let mut file = media.scratch()?;
        file.write_all(text(tags).as_bytes())?;
        file.flush()?;
        Ok(Self(file))
    }

    /// Adds them as an input.
    pub fn input(&self, args: &mut Args) {
        args.add(["-f", "ffmetadata", "-i"]).file(self.0.path());
    }
}

fn text(tags: &[(String, String)]) -> String {
    let mut text = String::from(";FFMETADATA1\n");
    for (key, value) in tags {
        escape(&mut text, key);
        text.push('=');
        escape(&mut text, value);
        text.push('\n');
    }
    text
}

fn escape(out: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '=' | ';' | '#' | '\\' | '\n' => out.extend(['\\', char]),
            // It would end the text.
            '\0' => {}
            _ => out.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_the_format_are_escaped() {
        let tags = [("a=b".to_owned(), "1;2#3\\4\n5\0é".to_owned())];
        assert_eq!(text(&tags), ";FFMETADATA1\na\\=b=1\\;2\\#3\\\\4\\\n5é\n");
    }
}
