//! Classes that stand in for others which there are not any more: renamed ones, and ones that several were merged into. Does not know how a
//! prompt is changed by them.

use serde_json::{Map, Value as Json, json};

/// A class that stands in for another one, in the form in which ComfyUI's packs register it.
#[derive(Debug, Clone, PartialEq)]
pub struct Replacement {
    /// The class that there was.
    pub old: String,
    /// The class that stands in for it.
    pub new: String,
    /// The names of the old class's widgets, in the order in which the front end stores their values.
    pub widgets: Option<Vec<String>>,
    /// What the new class's inputs are; without it they are the old one's.
    pub inputs: Option<Vec<NewInput>>,
    /// Old output to new output; those that are not named stay.
    pub outputs: Option<Vec<(u64, u64)>>,
}

/// An input of the class that stands in.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInput {
    /// Its name.
    pub name: String,
    /// What it gets.
    pub from: From,
}

/// What an input of a class that stands in gets.
#[derive(Debug, Clone, PartialEq)]
pub enum From {
    /// What this input of the old class has.
    Old(String),
    /// This value.
    Value(Json),
}

impl Replacement {
    /// A class under a new name.
    pub fn renamed(old: &str, new: &str) -> Self {
        Self { old: old.into(), new: new.into(), widgets: None, inputs: None, outputs: None }
    }

    /// Names the old class's widgets.
    pub fn widgets(mut self, names: &[&str]) -> Self {
        self.widgets = Some(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// An input that gets what one of the old class has.
    pub fn input(self, name: &str, old: &str) -> Self {
        self.with(name, From::Old(old.into()))
    }

    /// An input that gets a value.
    pub fn value(self, name: &str, value: impl Into<Json>) -> Self {
        self.with(name, From::Value(value.into()))
    }

    fn with(mut self, name: &str, from: From) -> Self {
        self.inputs.get_or_insert_default().push(NewInput { name: name.into(), from });
        self
    }

    /// An output that was at another place.
    pub fn output(mut self, old: u64, new: u64) -> Self {
        self.outputs.get_or_insert_default().push((old, new));
        self
    }

    /// As ComfyUI tells it to clients.
    pub fn to_json(&self) -> Json {
        let input = |input: &NewInput| match &input.from {
            From::Old(old) => json!({"new_id": input.name, "old_id": old}),
            From::Value(value) => json!({"new_id": input.name, "set_value": value}),
        };
        json!({
            "new_node_id": self.new,
            "old_node_id": self.old,
            "old_widget_ids": self.widgets,
            "input_mapping": self.inputs.as_ref().map(|inputs| inputs.iter().map(input).collect::<Vec<_>>()),
            "output_mapping": self.outputs.as_ref().map(|outputs| {
                outputs.iter().map(|(old, new)| json!({"new_idx": new, "old_idx": old})).collect::<Vec<_>>()
            }),
        })
    }

    /// Reads what ComfyUI tells; `None` where it names no two classes. Entries that make no sense are left out.
    pub fn from_json(told: &Json) -> Option<Self> {
        let text = |value: &Json, name: &str| value.get(name).and_then(Json::as_str).map(str::to_owned);
        let list = |name: &str| told.get(name).and_then(Json::as_array);
        let input = |entry: &Json| {
            let from = match entry.get("set_value") {
                Some(value) => From::Value(value.clone()),
                None => From::Old(text(entry, "old_id")?),
            };
            Some(NewInput { name: text(entry, "new_id")?, from })
        };
        let output = |entry: &Json| Some((entry.get("old_idx")?.as_u64()?, entry.get("new_idx")?.as_u64()?));
        Some(Self {
            old: text(told, "old_node_id")?,
            new: text(told, "new_node_id")?,
            widgets: list("old_widget_ids").map(|names| names.iter().filter_map(Json::as_str).map(str::to_owned).collect()),
            inputs: list("input_mapping").map(|entries| entries.iter().filter_map(input).collect()),
            outputs: list("output_mapping").map(|entries| entries.iter().filter_map(output).collect()),
        })
    }
}

/// All that are registered, by the class that there was; of several for one class the first is used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replacements(Vec<Replacement>);

impl Replacements {
    /// These.
    pub fn new(all: impl IntoIterator<Item = Replacement>) -> Self {
        let mut replacements = Self::default();
        all.into_iter().for_each(|one| replacements.register(one));
        replacements
    }

    /// Adds one, unless one for these two classes is there.
    pub fn register(&mut self, new: Replacement) {
        if !self.0.iter().any(|known| known.old == new.old && known.new == new.new) {
            self.0.push(new);
        }
    }

    /// Adds those of an object of lists, as ComfyUI tells them to clients.
    pub fn register_json(&mut self, told: &Json) {
        let lists = told.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_array());
        lists.flatten().filter_map(Replacement::from_json).for_each(|one| self.register(one));
    }

    /// Adds those of another list.
    pub fn extend(&mut self, other: &Self) {
        other.0.iter().cloned().for_each(|one| self.register(one));
    }

    /// The one that is used for a class.
    pub fn of(&self, old: &str) -> Option<&Replacement> {
        self.0.iter().find(|one| one.old == old)
    }

    /// As ComfyUI tells them to clients: lists by the class that there was.
    pub fn to_json(&self) -> Map<String, Json> {
        let mut lists = Map::new();
        for one in &self.0 {
            if let Json::Array(list) = lists.entry(one.old.clone()).or_insert_with(|| json!([])) {
                list.push(one.to_json());
            }
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_again() {
        let scale = Replacement::renamed("Old", "New").widgets(&["by"]).input("image", "picture").value("mode", "area").output(0, 1);
        let told = Replacements::new([scale.clone(), Replacement::renamed("Old", "Other"), scale.clone(), Replacement::renamed("A ", "A")]);
        let json = Json::Object(told.to_json());
        assert_eq!(
            json["Old"][0]["input_mapping"],
            json!([{"new_id": "image", "old_id": "picture"}, {"new_id": "mode", "set_value": "area"}])
        );
        assert_eq!(json["Old"][0]["output_mapping"], json!([{"new_idx": 1, "old_idx": 0}]));
        assert_eq!((&json["A "][0]["input_mapping"], json["Old"].as_array().map(Vec::len)), (&Json::Null, Some(2)));
        let mut read = Replacements::default();
        read.register_json(&json);
        assert_eq!(read, told);
        assert_eq!(read.of("Old"), Some(&scale));
        assert_eq!((read.of("A"), Replacement::from_json(&json!({"old_node_id": "x"}))), (None, None));
    }
}
