//! The folders of users who are told apart: `users/NAME` in the input, output and temp folder. What a user writes goes there, and what he
//! names is looked for there first; inputs that lie outside of all users' folders are everybody's. Who a user is, the thread knows that works
//! for him (`comfyd_node::actor`).

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use comfyd_node::{Actor, actor};

use crate::{Error, Folders, Kind, Result, join_inside};

/// Holds the folders of users.
pub(crate) const USERS: &str = "users";

impl Folders {
    /// Keeps users apart whenever this says so.
    pub fn keep_apart(&self, apart: Arc<AtomicBool>) {
        // The first one counts.
        drop(self.apart.set(apart));
    }

    /// For whom this thread works, where users are kept apart.
    fn user(&self) -> Option<Actor> {
        if !self.apart.get().is_some_and(|apart| apart.load(Ordering::Acquire)) {
            return None;
        }
        Some(actor()).filter(|actor| !actor.owner.is_empty())
    }

    /// Where what this thread writes goes.
    pub fn own(&self, kind: Kind) -> PathBuf {
        let root = self.directory(kind);
        self.user().map_or_else(|| root.to_owned(), |user| root.join(USERS).join(&*user.owner))
    }

    /// The folders in which one finds what is in none below: one's own, and what one gets to see besides.
    pub fn seen(&self, kind: Kind) -> Vec<PathBuf> {
        let mut seen = vec![self.own(kind)];
        if self.user().is_some_and(|user| user.all || kind == Kind::Input) {
            seen.push(self.directory(kind).to_owned());
        }
        seen
    }

    /// The path `relative` inside a client's folder, for writing; `..` resolved by name. Fails if it leads outside, or to another user's.
    pub fn inside(&self, kind: Kind, relative: &Path) -> Result<PathBuf> {
        let root = self.directory(kind);
        let path = join_inside(root, relative)?;
        let Some(user) = self.user() else { return Ok(path) };
        match of_users(root, &path) {
            None => join_inside(&self.own(kind), relative),
            Some(owner) if *owner == *user.owner => Ok(path),
            Some(_) => Err(Error::Outside { path: relative.to_owned() }),
        }
    }

    /// The same for reading: it may also be somewhere else that one gets to see.
    pub fn found(&self, kind: Kind, relative: &Path) -> Result<PathBuf> {
        let root = self.directory(kind);
        let path = join_inside(root, relative)?;
        let Some(user) = self.user() else { return Ok(path) };
        let others = of_users(root, &path).is_some();
        if others && user.all {
            return Ok(path);
        }
        let own = self.inside(kind, relative)?;
        let shared = !others && (user.all || kind == Kind::Input);
        Ok(if shared && !self.exists(&own) && self.exists(&path) { path } else { own })
    }

    /// How clients are told of a folder that they called so.
    pub fn told(&self, kind: Kind, folder: &Path, called: &str) -> String {
        let below = folder.strip_prefix(self.directory(kind)).ok().filter(|_| self.user().is_some());
        below.map_or_else(|| called.to_owned(), |below| below.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"))
    }

    /// A prefix for saving without the user's own folder before it. Fails if it is another's.
    pub(crate) fn own_prefix<'a>(&self, prefix: &'a str) -> Result<&'a str> {
        let Some(user) = self.user() else { return Ok(prefix) };
        let own = format!("{USERS}/{}/", user.owner);
        if let Some(rest) = prefix.strip_prefix(&own) {
            return Ok(rest);
        }
        self.inside(Kind::Output, Path::new(prefix)).map(|_| prefix)
    }
}

/// Whose folder a path below `root` is in; empty if it is in nobody's of those for users. File systems may not tell cases apart.
fn of_users<'a>(root: &Path, path: &'a Path) -> Option<&'a str> {
    let mut parts = path.strip_prefix(root).ok()?.components().map(|part| match part {
        Component::Normal(name) => name.to_str().unwrap_or_default(),
        _ => "",
    });
    let first = parts.next()?.trim_end_matches(['.', ' ']);
    first.eq_ignore_ascii_case(USERS).then(|| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use comfyd_node::acting_for;

    use super::*;
    use crate::Roots;

    #[test]
    fn each_user_has_a_folder_and_none_gets_into_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders::new(Roots::under(dir.path())).unwrap();
        let below = |path: PathBuf| path.strip_prefix(dir.path()).unwrap().to_str().unwrap().replace('\\', "/");
        let found = |kind, name: &str| folders.found(kind, Path::new(name)).map(below).unwrap_or_default();
        let ann = || acting_for(Actor { owner: "ann".into(), all: false, ..Actor::default() });
        {
            let _ann = ann();
            assert_eq!(found(Kind::Input, "a.png"), "input/a.png", "nobody is told apart");
        }
        folders.keep_apart(Arc::new(AtomicBool::new(true)));
        for file in ["input/shared.png", "output/old.png", "input/users/ann/own.png", "input/own.png", "output/users/bob/b.png"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(found(Kind::Output, "users/bob/b.png"), "output/users/bob/b.png", "nobody in particular");
        let _ann = ann();
        for (kind, name, place) in [
            (Kind::Input, "shared.png", "input/shared.png"),
            (Kind::Input, "own.png", "input/users/ann/own.png"),
            (Kind::Input, "users/ann/own.png", "input/users/ann/own.png"),
            (Kind::Input, "new.png", "input/users/ann/new.png"),
            (Kind::Output, "old.png", "output/users/ann/old.png"),
            (Kind::Output, "users/bob/b.png", ""),
            (Kind::Output, "x/../users/bob/b.png", ""),
            (Kind::Output, "USERS/bob/b.png", ""),
            (Kind::Output, "users./bob/b.png", ""),
            (Kind::Output, "users", ""),
            (Kind::Output, "users/ann/../bob/b.png", ""),
        ] {
            assert_eq!(found(kind, name), place, "{name}");
        }
        let target = folders.save_target(Kind::Output, "deep/x", 1, 1).unwrap();
        assert_eq!((target.subfolder.as_str(), below(target.dir)), ("users/ann/deep", "output/users/ann/deep".to_owned()));
        assert_eq!(folders.save_target(Kind::Output, "users/ann/x", 1, 1).unwrap().subfolder, "users/ann");
        assert!(folders.save_target(Kind::Output, "users/bob/x", 1, 1).is_err());
        assert!(folders.save_target(Kind::Output, "../bob/x", 1, 1).is_err());
        let _admin = acting_for(Actor { owner: "boss".into(), all: true, ..Actor::default() });
        assert_eq!(found(Kind::Output, "users/bob/b.png"), "output/users/bob/b.png");
        assert_eq!(found(Kind::Output, "old.png"), "output/old.png");
        assert!(folders.inside(Kind::Output, Path::new("users/bob/b.png")).is_err(), "for writing");
    }
}
