//! Where the nodes of small graphs run, and of any graph.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use comfyd_node::{ExpansionNode, Hosted, Opaque};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::double::{anything, here, there};

/// Loaders, samplers and decoders on both sides, a loader and a patch in `default` alone, a switch in `other` alone.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    let load = || Schema::new("Load").input(Input::text("file")).output("MODEL");
    let sampler = |names: &[&str]| {
        let schema = Schema::new("Sample").input(Input::link("model", "MODEL")).input(Input::combo("sampler", names));
        schema.input(Input::link("start", "LATENT").optional()).output("LATENT")
    };
    let decode = || Schema::new("Decode").input(Input::link("latent", "LATENT")).output("IMAGE");
    let mut add = |schema: Schema, hosted: Hosted| there(&mut catalog, "default", schema, hosted, anything);
    add(load(), Hosted::default());
    add(sampler(&["euler", "own"]).input(Input::float("new").optional()), Hosted::default());
    add(decode(), Hosted::default());
    add(Schema::new("Save").input(Input::link("images", "IMAGE")).output_node(), Hosted::default());
    add(Schema::new("Patch").input(Input::link("model", "MODEL")).output("MODEL"), Hosted::default());
    add(Schema::new("Filter").input(Input::link("image", "IMAGE")).output("IMAGE"), Hosted::default());
    let reads = Hosted { introspects: true, ..Hosted::default() };
    add(Schema::new("Reads").input(Input::link("image", "IMAGE")).output("IMAGE"), reads);
    add(Schema::new("Any").input(Input::link("value", "*")).output("*"), Hosted::default());
    let show = || Schema::new("Show").input(Input::link("value", "*")).output_node();
    add(show(), Hosted::default());
    there(
        &mut catalog,
        "other",
        Schema::new("OtherPatch").input(Input::link("model", "MODEL")).output("MODEL"),
        Hosted::default(),
        anything,
    );
    there(&mut catalog, "other", load(), Hosted::default(), anything);
    let encode = || Schema::new("Encode").input(Input::text("text")).output("CONDITIONING");
    there(&mut catalog, "default", encode(), Hosted::default(), anything);
    there(
        &mut catalog,
        "other",
        Schema::new("OtherStyle").input(Input::link("style", "CONDITIONING")).output("CONDITIONING"),
        Hosted::default(),
        anything,
    );
    let stays = Hosted { stays: true, ..Hosted::default() };
    there(&mut catalog, "default", Schema::new("Odd").input(Input::link("value", "*")).output("*"), stays, anything);
    here(&mut catalog, encode(), None);
    here(&mut catalog, load(), Some("flux"));
    here(&mut catalog, sampler(&["euler"]), None);
    here(&mut catalog, decode(), None);
    here(&mut catalog, show(), None);
    here(&mut catalog, Schema::new("Number").output("INT"), None);
    here(&mut catalog, Schema::new("Save").input(Input::link("images", "IMAGE")).output_node(), None);
    here(&mut catalog, Schema::new("OwnSave").input(Input::link("images", "IMAGE")).output_node(), None);
    here(&mut catalog, Schema::new("OwnPatch").input(Input::link("model", "MODEL")).output("MODEL"), None);
    catalog
}

/// `id:Class name=value` words; `@id` is a link.
fn nodes(text: &str) -> Map<String, Json> {
    let mut nodes = Map::new();
    for line in text.split(';').map(str::trim) {
        let mut words = line.split(' ');
        let (id, class) = words.next().unwrap().split_once(':').unwrap();
        let mut inputs = Map::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap();
            inputs.insert(name.into(), value.strip_prefix('@').map_or_else(|| json!(value), |target| json!([target, 0])));
        }
        nodes.insert(id.into(), json!({"class_type": class, "inputs": inputs}));
    }
    nodes
}

/// The name of the host of each node, `-` for this process.
fn shown(catalog: &Catalog, nodes: &Map<String, Json>, placement: &Placement) -> String {
    let one = |(id, node): (&String, &Json)| {
        let entry = placement.entry(catalog, id, node["class_type"].as_str().unwrap()).unwrap();
        format!("{id}:{}", entry.host().map_or("-".to_owned(), |host| host.name().to_owned()))
    };
    nodes.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn placed(text: &str, placing: &Placing) -> String {
    let (catalog, nodes) = (catalog(), nodes(text));
    let outputs: Vec<String> = nodes.keys().next_back().cloned().into_iter().collect();
    match place(&catalog, &nodes, &outputs, placing, None) {
        Ok(placement) => shown(&catalog, &nodes, &placement),
        Err(unplaceable) => unplaceable.to_string(),
    }
}

fn auto(text: &str) -> String {
    placed(text, &Placing::default())
}

const CHAIN: &str = "l:Load file=sd; s:Sample model=@l sampler=euler; d:Decode latent=@s; o:Save images=@d";

#[test]
fn this_process_runs_what_it_can() {
    assert_eq!(auto(CHAIN), "l:- s:- d:- o:-");
    assert_eq!(auto(&CHAIN.replace("o:Save images=@d", "f:Filter image=@d; o:Save images=@f")), "l:- s:- d:- f:default o:-");
    assert_eq!(placed(CHAIN, &Placing { mode: PlacementMode::Python, ..Placing::default() }), "l:default s:default d:default o:default");
    assert_eq!(placed(CHAIN, &Placing { mode: PlacementMode::Native, ..Placing::default() }), "l:- s:- d:- o:-");
}

#[test]
fn what_cannot_cross_keeps_its_nodes_together() {
    assert_eq!(auto(&CHAIN.replace("s:Sample model=@l", "p:Patch model=@l; s:Sample model=@p")), "l:default p:default s:default d:- o:-");
    assert_eq!(
        auto(&CHAIN.replace("s:Sample model=@l", "p:OtherPatch model=@l; s:Sample model=@l")),
        "l:- p:default s:- d:- o:-".replace("p:default", "p:other")
    );
    assert_eq!(auto("l:Load file=sd; p:OtherPatch model=@l; q:OtherPatch model=@p"), "l:other p:other q:other");
    assert_eq!(
        auto("l:Load file=sd; a:Any value=@l; s:Sample model=@a sampler=euler; d:Decode latent=@s"),
        "l:default a:default s:default d:-"
    );
    let graph = CHAIN.replace("o:Save images=@d", "r:Reads image=@d; o:Save images=@r");
    assert_eq!(auto(&graph), "l:default s:default d:default r:default o:-", "it reads the graph above it");
}

#[test]
fn conditions_cross_between_other_processes_where_they_must() {
    assert_eq!(auto("e:Encode text=a"), "e:-");
    assert_eq!(auto("e:Encode text=a; s:OtherStyle style=@e"), "e:default s:other");
    assert_eq!(auto("e:Encode text=a; s:OtherStyle style=@e; t:OtherStyle style=@s"), "e:default s:other t:other");
}

#[test]
fn what_could_not_let_go_of_a_value_is_kept_near_where_that_can_be() {
    assert_eq!(auto(&CHAIN.replace("o:Save images=@d", "a:Any value=@d; o:Save images=@a")), "l:- s:- d:- a:default o:-");
    assert_eq!(auto(&CHAIN.replace("o:Save images=@d", "a:Odd value=@d; o:Save images=@a")), "l:- s:- d:default a:default o:default");
    assert_eq!(auto("n:Number; a:Odd value=@n; o:OwnSave images=@a"), "n:- a:default o:-", "no process runs both");
}

#[test]
fn a_node_fits_this_process_or_runs_elsewhere() {
    assert_eq!(auto(&CHAIN.replace("file=sd", "file=flux")), "l:default s:default d:- o:-", "it declines");
    assert_eq!(auto(&CHAIN.replace("euler", "own")), "l:default s:default d:- o:-", "a choice of another process");
    assert_eq!(auto(&CHAIN.replace("euler", "euler new=1")), "l:default s:default d:- o:-", "an input of another process");
    assert_eq!(auto(&CHAIN.replace("o:Save images", "o:Show value")), "l:- s:- d:- o:default", "it shows objects in its own way");
    assert_eq!(auto("n:Number; o:Show value=@n"), "n:- o:-");
}

#[test]
fn what_no_process_can_run_is_told_with_its_reason() {
    let told = auto("l:Load file=sd; p:Patch model=@l; q:OwnPatch model=@p");
    assert_eq!(told, "what class 'Patch' gives class 'OwnPatch' (MODEL) cannot leave the process that made it, and no process runs both");
    let told = auto("l:Load file=flux; q:OwnPatch model=@l");
    assert!(told.ends_with("no process runs both: 'Load' is not run by this process here, since it does not know flux"), "{told}");
    assert_eq!(
        auto("l:Load file=sd; p:Patch model=@l; q:OwnPatch model=@p; o:Save images=@x; x:Filter").matches("both").count(),
        0,
        "not needed"
    );
}

#[test]
fn preferences_decide_for_all_that_is_joined() {
    let prefer = |class: &str, wish: &str| Placing { mode: PlacementMode::Auto, prefer: [(class.to_owned(), wish.to_owned())].into() };
    assert_eq!(placed(CHAIN, &prefer("Sample", "python")), "l:default s:default d:- o:-");
    assert_eq!(placed("l:Load file=sd", &prefer("Load", "other")), "l:other");
    assert_eq!(placed(CHAIN, &prefer("Sample", "other")), "l:- s:- d:- o:-", "which does not have the class");
    let python = Placing { mode: PlacementMode::Python, prefer: [("Decode".to_owned(), "native".to_owned())].into() };
    assert_eq!(placed(CHAIN, &python), "l:default s:default d:- o:default");
}

struct Thing(Option<&'static str>);

impl Opaque for Thing {
    fn type_name(&self) -> &str {
        "Thing"
    }

    fn size_bytes(&self) -> usize {
        0
    }

    fn host(&self) -> Option<&str> {
        self.0
    }
}

#[test]
fn expansions_stay_with_what_they_use() {
    let catalog = catalog();
    let prompt = Json::Object(nodes("l:Load file=sd; p:Patch model=@l; n:OwnPatch model=@m; m:Load file=sd"));
    let placement = place(&catalog, prompt.as_object().unwrap(), &["p".into(), "n".into()], &Placing::default(), None).unwrap();
    let graph = Graph::from_prompt(&catalog, &prompt, &placement).unwrap();
    let link = |node: &str| Source::Link { node: node.into(), slot: 0 };
    let expand = |inputs: Vec<(&str, Source)>, gives: &[Source], parent: &str| {
        let inputs = inputs.into_iter().map(|(name, source)| (name.to_owned(), source)).collect();
        let node = ExpansionNode { class_type: "Sample".into(), inputs, display_id: None };
        let expansion = Expansion { nodes: [("e".to_owned(), node)].into_iter().collect() };
        let parent = graph.find(parent).unwrap();
        place_expansion(&catalog, &graph, parent, &expansion, gives, &Placing::default(), None)
            .map(|placement| placement.entry(&catalog, "e", "Sample").unwrap().host().map_or("-".to_owned(), |host| host.name().to_owned()))
    };
    let euler = || ("sampler", Source::Value("euler".into()));
    assert_eq!(expand(vec![("model", link("p")), euler()], &[], "p").unwrap(), "default");
    assert_eq!(expand(vec![("model", link("n")), euler()], &[], "p").unwrap(), "-");
    let thing = |host| ("model", Source::Value(Value::object(Thing(host))));
    assert_eq!(expand(vec![thing(Some("default")), euler()], &[], "p").unwrap(), "default", "an object stays where it is");
    assert_eq!(expand(vec![thing(None), euler()], &[], "n").unwrap(), "-");
    assert!(expand(vec![thing(Some("other")), euler()], &[], "p").is_err());
    let own = ("sampler", Source::Value("own".into()));
    assert!(expand(vec![("model", link("n")), own], &[], "p").is_err(), "what it uses is placed already");
    let start = ("start", Source::Value(Value::object(Thing(Some("default")))));
    assert_eq!(expand(vec![thing(None), start, euler()], &[], "n").unwrap(), "-", "a latent may cross");
}

const TYPES: [&str; 3] = ["IMAGE", "MODEL", "*"];
const HOSTS: [&str; 3] = ["", "default", "other"];

/// A class: the hosts that have it as bits, whether it reads the graph, its input's and its output's type.
type AnyClass = (u8, bool, usize, usize);

fn any_catalog(classes: &[AnyClass]) -> Catalog {
    let mut catalog = Catalog::new();
    for (at, (hosts, reads, input, output)) in classes.iter().enumerate() {
        let slot = |name: &str| Input::link(name, TYPES[*input]).optional();
        let schema = Schema::new(&format!("C{at}")).input(slot("a")).input(slot("b")).output(TYPES[*output]);
        for (host, name) in HOSTS.iter().enumerate().filter(|(host, _)| hosts & (1 << host) != 0) {
            if host == 0 {
                here(&mut catalog, schema.clone(), None);
            } else {
                there(&mut catalog, name, schema.clone(), Hosted { introspects: *reads, ..Hosted::default() }, anything);
            }
        }
    }
    catalog
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that cannot cross does, every node runs where its class is, always in the same way; what is refused cannot be placed.
    #[test]
    fn any_graph_is_placed_or_cannot_be(
        classes in prop::collection::vec((1..8u8, prop::bool::weighted(0.1), 0..3usize, 0..3usize), 1..5),
        graph in prop::collection::vec((0..5usize, prop::option::of(0..12usize), prop::option::of(0..12usize)), 1..12),
        python in any::<bool>(),
    ) {
        let catalog = any_catalog(&classes);
        let class = |node: usize| graph[node].0 % classes.len();
        // Only links to earlier nodes: the order does not matter here.
        let links: Vec<(usize, usize)> = graph.iter().enumerate()
            .flat_map(|(to, (_, a, b))| [*a, *b].into_iter().flatten().filter(move |from| *from < to).map(move |from| (from, to)))
            .collect();
        let mut nodes = Map::new();
        for (node, (_, a, b)) in graph.iter().enumerate() {
            let link = |from: &Option<usize>| from.filter(|from| *from < node).map(|from| json!([format!("n{from}"), 0]));
            let inputs: Map<String, Json> = [("a", link(a)), ("b", link(b))].into_iter().filter_map(|(n, l)| Some((n.to_owned(), l?))).collect();
            nodes.insert(format!("n{node}"), json!({"class_type": format!("C{}", class(node)), "inputs": inputs}));
        }
        let outputs: Vec<String> = nodes.keys().cloned().collect();
        let mode = if python { PlacementMode::Python } else { PlacementMode::Auto };
        let placing = Placing { mode, ..Placing::default() };
        let placed = place(&catalog, &nodes, &outputs, &placing, None);
        prop_assert_eq!(&placed, &place(&catalog, &nodes, &outputs, &placing, None));

        // The components, by the rules as they are written: joined until nothing changes.
        let mut component: Vec<usize> = (0..graph.len()).collect();
        let mut above: Vec<HashSet<usize>> = vec![HashSet::new(); graph.len()];
        for &(from, to) in &links {
            let more = above[from].clone();
            above[to].extend(more.into_iter().chain([from]));
        }
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for &(from, to) in &links {
            let (output, input) = (TYPES[classes[class(from)].3], TYPES[classes[class(to)].2]);
            let crosses = output == "IMAGE" || (output == "*" && input == "IMAGE");
            pairs.extend((!crosses).then_some((from, to)));
        }
        for node in (0..graph.len()).filter(|node| classes[class(*node)].1 && classes[class(*node)].0 > 1) {
            pairs.extend(above[node].iter().map(|from| (*from, node)));
        }
        for _ in 0..graph.len() {
            for &(a, b) in &pairs {
                let least = component[a].min(component[b]);
                (component[a], component[b]) = (least, least);
            }
        }
        // The types of a class's slots are the same everywhere, but what this process takes of links is checked on its own.
        let fits = |node: usize| links.iter().filter(|(_, to)| *to == node).all(|(from, to)| {
            let (output, input) = (TYPES[classes[class(*from)].3], TYPES[classes[class(*to)].2]);
            input != "*" && (output == "*" || output == input)
        });
        let able = |node: usize| {
            let hosts = classes[class(node)].0;
            if hosts > 1 && !fits(node) { hosts & !1 } else { hosts }
        };
        let common = |of: usize| (0..graph.len()).filter(|node| component[*node] == of).fold(7, |hosts, node| hosts & able(node));
        match placed {
            Err(_) => prop_assert!((0..graph.len()).any(|node| common(component[node]) == 0)),
            Ok(placement) => {
                let host = |node: usize| {
                    let entry = placement.entry(&catalog, &format!("n{node}"), &format!("C{}", class(node))).unwrap();
                    HOSTS.iter().position(|name| *name == entry.host().map_or("", |host| if host.name() == "other" { "other" } else { "default" })).unwrap()
                };
                for (node, joined) in component.iter().enumerate() {
                    let common = common(*joined);
                    prop_assert!(common & (1 << host(node)) != 0, "n{} runs where it cannot", node);
                    prop_assert_eq!(host(node), host(*joined), "n{} is apart from what it is joined to", node);
                    let native = if python { common == 1 } else { common & 1 != 0 };
                    prop_assert_eq!(host(node) == 0, native);
                }
            }
        }
    }
}
