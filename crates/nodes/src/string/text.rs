//! Texts joined, cut, compared.

use comfyd_node::{Input, NodeOutput, Result, Schema};

use crate::class::{Call, Class, unknown_choice};
use crate::string::case;

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("StringConcatenate")
                .display("Concatenate Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Joins two texts.")
                .aliases(["append", "glue", "sentence"])
                .input(Input::text("string_a").multiline().tooltip("The beginning."))
                .input(Input::text("string_b").multiline().tooltip("The end."))
                .input(Input::text("delimiter").default("").tooltip("What stands between."))
                .output("STRING")
        },
        concatenate,
    ),
    Class::new(
        || {
            Schema::new("StringSubstring")
                .display("Substring")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description(
                    "Cuts a piece out of a text. Positions count characters from 0; negative ones count from the \
                     end.",
                )
                .aliases(["part", "cut"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .input(Input::int("start").tooltip("The first character."))
                .input(Input::int("end").tooltip("The character behind the last one."))
                .output("STRING")
        },
        substring,
    ),
    Class::new(
        || {
            Schema::new("StringLength")
                .display("Text Length")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Counts a text's characters.")
                .aliases(["how long", "count letters"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .output_named("INT", "length")
        },
        length,
    ),
    Class::new(
        || {
            Schema::new("CaseConverter")
                .display("Convert Text Case")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Changes upper and lower case.")
                .aliases(["capitals", "small letters", "title"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .input(Input::combo("mode", ["UPPERCASE", "lowercase", "Capitalize", "Title Case"]).tooltip("What to do."))
                .output("STRING")
        },
        convert_case,
    ),
    Class::new(
        || {
            Schema::new("StringTrim")
                .display("Trim Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Removes white space from a text's ends.")
                .aliases(["spaces at the ends"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .input(Input::combo("mode", ["Both", "Left", "Right"]).tooltip("At which end."))
                .output("STRING")
        },
        trim,
    ),
    Class::new(
        || {
            Schema::new("StringReplace")
                .display("Replace Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Replaces every occurrence of a text.")
                .aliases(["change words", "exchange"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .input(Input::text("find").multiline().tooltip("What to replace."))
                .input(Input::text("replace").multiline().tooltip("What to put there."))
                .output("STRING")
        },
        replace,
    ),
    Class::new(
        || {
            Schema::new("StringContains")
                .display("Contains Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Tells whether a text has another one in it.")
                .aliases(["is in", "search"])
                .input(Input::text("string").multiline().tooltip("The text to work on."))
                .input(Input::text("substring").multiline().tooltip("What to look for."))
                .input(Input::bool("case_sensitive").default(true).tooltip("Upper and lower case differ.").advanced())
                .output_named("BOOLEAN", "contains")
        },
        contains,
    ),
    Class::new(
        || {
            Schema::new("StringCompare")
                .display("Compare Text")
                .category("text")
                .module("comfy_extras.nodes_string")
                .schema_generation()
                .description("Compares two texts.")
                .aliases(["same text", "begins", "ends"])
                .input(Input::text("string_a").multiline().tooltip("The text."))
                .input(Input::text("string_b").multiline().tooltip("What to compare with."))
                .input(Input::combo("mode", ["Starts With", "Ends With", "Equal"]).tooltip("How to compare."))
                .input(Input::bool("case_sensitive").default(true).tooltip("Upper and lower case differ.").advanced())
                .output("BOOLEAN")
        },
        compare,
    ),
];

fn concatenate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let parts = [call.text("string_a")?, call.text("delimiter")?, call.text("string_b")?];
    call.reserve_text(parts.iter().map(|part| part.len()).sum())?;
    Ok(NodeOutput::one(parts.concat()))
}

fn substring(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let text = call.text("string")?;
    let length = text.chars().count() as i128;
    // Python's slices: negative positions count from the end, and what is outside is cut off.
    let place = |position: i128| if position < 0 { (position + length).max(0) } else { position.min(length) } as usize;
    let (start, end) = (place(call.int("start")?), place(call.int("end")?));
    Ok(NodeOutput::one(text.chars().skip(start).take(end.saturating_sub(start)).collect::<String>()))
}

fn length(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(call.text("string")?.chars().count()))
}

fn convert_case(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let convert = match call.text("mode")? {
        "UPPERCASE" => str::to_uppercase,
        "lowercase" => str::to_lowercase,
        "Capitalize" => case::capitalize,
        "Title Case" => case::title,
        other => return Err(unknown_choice("mode", other)),
    };
    let text = call.text("string")?.to_owned();
    // Some characters become up to three, and a title is looked for in what is in lower case.
    let converted = call.of_text(text.len(), 7 * text.len(), move || convert(&text))?;
    call.reserve_text(converted.len())?;
    Ok(NodeOutput::one(converted))
}

fn trim(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let text = call.text("string")?;
    Ok(NodeOutput::one(match call.text("mode")? {
        "Both" => text.trim_matches(case::is_space),
        "Left" => text.trim_start_matches(case::is_space),
        "Right" => text.trim_end_matches(case::is_space),
        other => return Err(unknown_choice("mode", other)),
    }))
}

fn replace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(replaced(call, call.text("string")?, call.text("find")?, call.text("replace")?)?))
}

/// The text with a part replaced wherever it stands.
pub(super) fn replaced(call: &Call<'_, '_>, text: &str, find: &str, replacement: &str) -> Result<String> {
    let growth = replacement.len().saturating_sub(find.len()).saturating_mul(text.matches(find).count());
    call.reserve_text(text.len().saturating_add(growth))?;
    let (text, find, replacement) = (text.to_owned(), find.to_owned(), replacement.to_owned());
    call.of_text(text.len(), text.len(), move || text.replace(&find, &replacement))
}

fn contains(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (text, part) = (call.text("string")?.to_owned(), call.text("substring")?.to_owned());
    let (bytes, any_case) = (text.len() + part.len(), !call.bool("case_sensitive")?);
    let found =
        call.of_text(
            bytes,
            4 * bytes,
            move || {
                if any_case { text.to_lowercase().contains(&part.to_lowercase()) } else { text.contains(&part) }
            },
        )?;
    Ok(NodeOutput::one(found))
}

fn compare(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let (mut a, mut b) = (call.text("string_a")?.to_owned(), call.text("string_b")?.to_owned());
    if !call.bool("case_sensitive")? {
        let bytes = a.len() + b.len();
        (a, b) = call.of_text(bytes, 4 * bytes, move || (a.to_lowercase(), b.to_lowercase()))?;
    }
    Ok(NodeOutput::one(match call.text("mode")? {
        "Starts With" => a.starts_with(&b),
        "Ends With" => a.ends_with(&b),
        "Equal" => a == b,
        other => return Err(unknown_choice("mode", other)),
    }))
}
