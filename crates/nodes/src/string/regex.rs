//! Regular expressions.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};
use fancy_regex::Captures;

use crate::class::{Call, Class};
use crate::string::pattern::{Flags, Pattern};
use crate::string::template::Template;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("RegexMatch")
                .display("Regex Match")
                .category("utils/string")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Tells whether a regular expression is found in a text. A pattern that is not valid is not \
                     found.",
                )
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal."))
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks."))
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks."))
                .output_named("BOOLEAN", "matches")
        },
        matches,
    ),
    Class::new(
        || {
            Schema::new("RegexExtract")
                .display("Regex Extract")
                .category("utils/string")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Takes what a regular expression finds out of a text, one finding per line. A pattern that is \
                     not valid finds nothing.",
                )
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::combo("mode", ["First Match", "All Matches", "First Group", "All Groups"]).tooltip("What to take."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal."))
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks."))
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks."))
                .input(Input::int("group_index").default(1).min(0).max(100).tooltip("Which group; 0 is the whole match."))
                .output("STRING")
        },
        extract,
    ),
    Class::new(
        || {
            Schema::new("RegexReplace")
                .display("Regex Replace")
                .category("utils/string")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Replaces what a regular expression finds. \\1 and \\g<name> in the replacement stand for \
                     groups.",
                )
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::text("replace").multiline().tooltip("What to put there."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal.").optional())
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks.").optional())
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks.").optional())
                .input(Input::int("count").default(0).min(0).max(100).tooltip("How many to replace; 0 replaces all.").optional())
                .output("STRING")
        },
        replace,
    ),
];

fn pattern(call: &Call<'_, '_>) -> std::result::Result<Pattern, String> {
    let flag = |name| call.bool_or(name, name == "case_insensitive").map_err(|e| e.to_string());
    let flags = Flags { ignore_case: flag("case_insensitive")?, multiline: flag("multiline")?, dot_all: flag("dotall")? };
    Pattern::new(call.text("regex_pattern").map_err(|e| e.to_string())?, flags)
}

fn matches(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let text = call.text("string")?;
    let found = match pattern(call) {
        Ok(pattern) => pattern.search(text).map_err(Error::msg)?.is_some(),
        Err(_) => false,
    };
    Ok(NodeOutput::one(found))
}

fn extract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, mode) = (call.text("string")?, call.text("mode")?);
    let group: usize = call.int("group_index")?;
    let Ok(pattern) = pattern(call) else { return Ok(NodeOutput::one("")) };
    let groups = pattern.groups().len() - 1;
    match mode {
        "First Match" => {
            let found = pattern.search(text).map_err(Error::msg)?;
            Ok(NodeOutput::one(found.and_then(|f| f.get(0)).map_or("", |m| m.as_str())))
        }
        // As `re.findall`: the first group's text if there is a group.
        "All Matches" => lines(call, &pattern, text, usize::from(groups > 0), |_| Ok("")),
        "First Group" => {
            let found = pattern.search(text).map_err(Error::msg)?;
            let Some(found) = found.filter(|_| group <= groups) else { return Ok(NodeOutput::one("")) };
            // A group that took no part in the match is Python's None.
            Ok(NodeOutput::one(found.get(group).map_or(Value::Null, |m| Value::from(m.as_str()))))
        }
        "All Groups" if groups == 0 || group > groups => Ok(NodeOutput::one("")),
        "All Groups" => lines(call, &pattern, text, group, |group| {
            Err(Error::msg(format!("group {group} takes no part in one of the matches; choose another one or change the pattern")))
        }),
        // A linked text that is none of the choices gives nothing, as in the reference.
        _ => Ok(NodeOutput::one("")),
    }
}

/// One line per match: what the group found, or what `absent` says where it took no part.
fn lines(
    call: &Call<'_, '_>,
    pattern: &Pattern,
    text: &str,
    group: usize,
    absent: impl Fn(usize) -> Result<&'static str>,
) -> Result<NodeOutput> {
    let mut out = String::new();
    let mut first = true;
    let mut failed = Ok(());
    let mut each = |found: Captures<'_, str>| -> Result<()> {
        call.cx.check_cancelled()?;
        let line = match found.get(group) {
            Some(found) => found.as_str(),
            None => absent(group)?,
        };
        call.reserve_text(out.len() + line.len() + 1)?;
        if !first {
            out.push('\n');
        }
        first = false;
        out.push_str(line);
        Ok(())
    };
    let searched = pattern.each(text, |found| {
        failed = each(found);
        failed.is_ok()
    });
    failed?;
    searched.map_err(Error::msg)?;
    Ok(NodeOutput::one(out))
}

fn replace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, replacement) = (call.text("string")?, call.text("replace")?);
    let limit = call.inputs.optional("count").map_or(Ok(0), |_| call.int::<usize>("count"))?;
    let pattern = pattern(call).map_err(|e| Error::msg(format!("the pattern is not valid: {e}")))?;
    let template = Template::parse(replacement, &pattern.groups()).map_err(Error::msg)?;
    let mut out = String::new();
    let (mut copied, mut count) = (0, 0);
    let mut failed = Ok(());
    let searched = pattern.each(text, |found| {
        let Some(whole) = found.get(0) else { return false };
        out.push_str(&text[copied..whole.start()]);
        template.expand(&found, &mut out);
        copied = whole.end();
        count += 1;
        failed = call.cx.check_cancelled().and_then(|()| call.reserve_text(out.len() + text.len() - copied));
        failed.is_ok() && count != limit
    });
    failed?;
    searched.map_err(Error::msg)?;
    out.push_str(&text[copied..]);
    Ok(NodeOutput::one(out))
}
