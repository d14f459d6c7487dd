//! Regular expressions.

use comfyd_node::{Error, Input, NodeOutput, Result, Schema, Value};

use crate::class::{Call, Class};
use crate::string::matcher::Matches;
use crate::string::pattern::{Flags, Pattern};
use crate::string::template::Template;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("RegexMatch")
                .display("Match Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Tells whether a regular expression is found in a text. A pattern that is not valid is not \
                     found.",
                )
                .aliases(["regular expression", "find"])
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal.").advanced())
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks.").advanced())
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks.").advanced())
                .output_named("BOOLEAN", "matches")
        },
        matches,
    ),
    Class::new(
        || {
            Schema::new("RegexExtract")
                .display("Extract Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Takes what a regular expression finds out of a text, one finding per line. A pattern that is \
                     not valid finds nothing.",
                )
                .aliases(["regular expression", "groups"])
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::combo("mode", ["First Match", "All Matches", "First Group", "All Groups"]).tooltip("What to take."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal.").advanced())
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks.").advanced())
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks.").advanced())
                .input(Input::int("group_index").default(1).min(0).max(100).tooltip("Which group; 0 is the whole match.").advanced())
                .output("STRING")
        },
        extract,
    ),
    Class::new(
        || {
            Schema::new("RegexReplace")
                .display("Replace Text (Regex)")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Replaces what a regular expression finds. \\1 and \\g<name> in the replacement stand for \
                     groups.",
                )
                .aliases(["regular expression", "rewrite"])
                .input(Input::text("string").multiline().tooltip("The text to search."))
                .input(Input::text("regex_pattern").multiline().tooltip("A regular expression in Python's syntax."))
                .input(Input::text("replace").multiline().tooltip("What to put there."))
                .input(Input::bool("case_insensitive").default(true).tooltip("Upper and lower case count as equal.").optional().advanced())
                .input(Input::bool("multiline").default(false).tooltip("^ and $ also match at line breaks.").optional().advanced())
                .input(Input::bool("dotall").default(false).tooltip("The dot also matches line breaks.").optional().advanced())
                .input(Input::int("count").default(0).min(0).max(100).tooltip("How many to replace; 0 replaces all.").optional().advanced())
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
    let found = match pattern(call) {
        Ok(pattern) => pattern.matches(call.text("string")?, &|| call.cx.check_cancelled()).advance()?,
        Err(_) => false,
    };
    Ok(NodeOutput::one(found))
}

fn extract(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, mode) = (call.text("string")?, call.text("mode")?);
    let group: usize = call.int("group_index")?;
    let Ok(pattern) = pattern(call) else { return Ok(NodeOutput::one("")) };
    let groups = pattern.groups().len() - 1;
    let check = || call.cx.check_cancelled();
    let mut matches = pattern.matches(text, &check);
    match mode {
        "First Match" => Ok(NodeOutput::one(if matches.advance()? { matches.group(0).unwrap_or_default() } else { "" })),
        // As `re.findall`: the first group's text if there is a group.
        "All Matches" => lines(call, matches, usize::from(groups > 0), |_| Ok("")),
        // A group that took no part in the match is Python's None.
        "First Group" if group <= groups && matches.advance()? => {
            Ok(NodeOutput::one(matches.group(group).map_or(Value::Null, Value::from)))
        }
        "All Groups" if groups > 0 && group <= groups => lines(call, matches, group, |group| {
            Err(Error::msg(format!("group {group} takes no part in one of the matches; choose another one or change the pattern")))
        }),
        // A linked text that is none of the choices gives nothing, as in the reference.
        _ => Ok(NodeOutput::one("")),
    }
}

/// One line per match: what the group found, or what `absent` says where it took no part.
fn lines(
    call: &Call<'_, '_>,
    mut matches: Matches<'_>,
    group: usize,
    absent: impl Fn(usize) -> Result<&'static str>,
) -> Result<NodeOutput> {
    let mut out = String::new();
    let mut first = true;
    while matches.advance()? {
        let line = matches.group(group).map_or_else(|| absent(group), Ok)?;
        call.reserve_text(out.len() + line.len() + 1)?;
        if !first {
            out.push('\n');
        }
        first = false;
        out.push_str(line);
    }
    Ok(NodeOutput::one(out))
}

fn replace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, replacement) = (call.text("string")?, call.text("replace")?);
    let limit = call.inputs.optional("count").map_or(Ok(0), |_| call.int::<usize>("count"))?;
    let pattern = pattern(call).map_err(|e| Error::msg(format!("the pattern is not valid: {e}")))?;
    let template = Template::parse(replacement, pattern.groups()).map_err(Error::msg)?;
    let check = || call.cx.check_cancelled();
    let mut matches = pattern.matches(text, &check);
    let mut out = String::new();
    let (mut copied, mut count) = (0, 0);
    while (limit == 0 || count < limit) && matches.advance()? {
        matches.tick(template.steps())?;
        let (start, end) = matches.span();
        let replaced = template.length(|group| matches.group(group));
        call.reserve_text((out.len() + start - copied).saturating_add(replaced).saturating_add(text.len() - end))?;
        out.push_str(&text[copied..start]);
        template.expand(|group| matches.group(group), &mut out);
        copied = end;
        count += 1;
    }
    out.push_str(&text[copied..]);
    Ok(NodeOutput::one(out))
}
