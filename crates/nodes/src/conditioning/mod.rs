//! The nodes of the menu `conditioning`.

mod control;
mod edit;
mod entries;
mod gligen;
mod hooks;
mod pairs;
mod references;
mod style;
mod text;
mod video;
mod vision;

use crate::class::Class;

pub(crate) fn families() -> Vec<&'static [Class]> {
    let mut families = vec![
        text::CLASSES,
        entries::CLASSES,
        control::CLASSES,
        pairs::CLASSES,
        hooks::CLASSES,
        edit::CLASSES,
        vision::CLASSES,
        references::CLASSES,
        gligen::CLASSES,
        style::CLASSES,
    ];
    families.extend(video::families());
    families
}
