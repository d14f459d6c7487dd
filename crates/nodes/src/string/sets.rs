//! Texts of sets of pictures: changed one by one.

use comfyd_node::{Input, NodeOutput, Output, Result, Schema, Value};

use super::case::is_space;
use super::text::replaced;
use crate::class::{Call, Class};

pub(crate) const CLASSES: &[Class] = &[
    Class::new(
        || {
            Schema::new("TextToLowercase")
                .display("Convert Text to Lowercase (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Puts a text into lower case.")
                .input(Input::text("texts").tooltip("The text."))
                .slot(texts())
        },
        |call| change(call, str::to_lowercase),
    ),
    Class::new(
        || {
            Schema::new("TextToUppercase")
                .display("Convert Text to Uppercase (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Puts a text into upper case.")
                .input(Input::text("texts").tooltip("The text."))
                .slot(texts())
        },
        |call| change(call, str::to_uppercase),
    ),
    Class::new(
        || {
            Schema::new("TruncateText")
                .display("Truncate Text")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .description("Cuts a text off behind so many characters.")
                .aliases(["shorten", "limit"])
                .input(Input::text("texts").tooltip("The text."))
                .input(Input::int("max_length").default(77).min(1).max(10000).tooltip("How many characters stay."))
                .slot(texts())
        },
        truncate,
    ),
    Class::new(
        || {
            Schema::new("AddTextPrefix")
                .display("Add Text Prefix (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Puts a text before another one.")
                .input(Input::text("texts").tooltip("The text."))
                .input(Input::text("prefix").default("").tooltip("What comes before it."))
                .slot(texts())
        },
        |call| {
            let prefix = call.text("prefix")?.to_owned();
            change(call, move |text| prefix + text)
        },
    ),
    Class::new(
        || {
            Schema::new("AddTextSuffix")
                .display("Add Text Suffix (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Puts a text behind another one.")
                .input(Input::text("texts").tooltip("The text."))
                .input(Input::text("suffix").default("").tooltip("What comes behind it."))
                .slot(texts())
        },
        |call| {
            let suffix = call.text("suffix")?.to_owned();
            change(call, move |text| text.to_owned() + &suffix)
        },
    ),
    Class::new(
        || {
            Schema::new("ReplaceText")
                .display("Replace Text (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Replaces a part of a text wherever it stands.")
                .input(Input::text("texts").tooltip("The text."))
                .input(Input::text("find").default("").tooltip("What is replaced."))
                .input(Input::text("replace").default("").tooltip("What takes its place."))
                .slot(texts())
        },
        replace,
    ),
    Class::new(
        || {
            Schema::new("StripWhitespace")
                .display("Strip Whitespace (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Takes white space away at both ends of a text.")
                .input(Input::text("texts").tooltip("The text."))
                .slot(texts())
        },
        |call| change(call, |text| text.trim_matches(is_space).to_owned()),
    ),
    Class::new(
        || {
            Schema::new("MergeTextLists")
                .display("Merge Text Lists (DEPRECATED)")
                .category("text")
                .module("comfy_extras.nodes_dataset")
                .schema_generation()
                .experimental()
                .deprecated()
                .description("Makes one list of all texts that come.")
                .input(Input::text("texts").tooltip("The texts."))
                .input_is_list()
                .slot(texts())
        },
        |call| Ok(NodeOutput::one(Value::List(call.inputs.list("texts")?.to_vec().into()))),
    ),
];

/// What these classes give; the reference does not say whether it is a list.
fn texts() -> Output {
    Output { ty: "STRING".into(), name: "texts".into(), is_list_unsaid: true, ..Output::default() }
}

/// The text, changed. The reference hands on a list of the one text, which none of its other classes for texts takes.
fn change(call: &mut Call<'_, '_>, change: impl FnOnce(&str) -> String + Send + 'static) -> Result<NodeOutput> {
    let text = call.text("texts")?.to_owned();
    // Some letters become longer in the other case.
    let changed = call.of_text(text.len(), 4 * text.len(), move || change(&text))?;
    call.reserve_text(changed.len())?;
    Ok(NodeOutput::one(changed))
}

fn truncate(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    let most = call.count("max_length", 0)?;
    change(call, move |text| text.chars().take(most).collect())
}

fn replace(call: &mut Call<'_, '_>) -> Result<NodeOutput> {
    Ok(NodeOutput::one(replaced(call, call.text("texts")?, call.text("find")?, call.text("replace")?)?))
}
