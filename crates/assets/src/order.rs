//! The orders in which assets are listed.

use crate::asset::Asset;

/// What assets are sorted by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Key {
    Text(String),
    Number(i64),
}

/// By what assets are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Their names.
    Name,
    /// When they were made.
    #[default]
    Created,
    /// When what is said of them changed.
    Updated,
    /// Bytes.
    Size,
    /// When their content was fetched.
    Accessed,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Name, Self::Created, Self::Updated, Self::Size, Self::Accessed];

    /// As clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Created => "created_at",
            Self::Updated => "updated_at",
            Self::Size => "size",
            Self::Accessed => "last_access_time",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.name() == name)
    }

    pub(crate) fn has_cursor(self) -> bool {
        self != Self::Accessed
    }

    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Name => "a.name",
            Self::Created => "a.created",
            Self::Updated => "a.updated",
            Self::Size => "c.size",
            Self::Accessed => "a.accessed",
        }
    }

    pub(crate) fn key(self, asset: &Asset) -> Key {
        match self {
            Self::Name => Key::Text(asset.name.clone()),
            Self::Created => Key::Number(asset.created),
            Self::Updated => Key::Number(asset.updated),
            Self::Size => Key::Number(i64::try_from(asset.size).unwrap_or(i64::MAX)),
            Self::Accessed => Key::Number(asset.accessed),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The least first.
    Ascending,
    /// The greatest first.
    #[default]
    Descending,
}

impl Order {
    /// As clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ascending => "asc",
            Self::Descending => "desc",
        }
    }
}
