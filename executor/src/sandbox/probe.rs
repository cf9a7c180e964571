//! Finds out whether steps can be run here: runs one that has no command.

use std::{collections::BTreeMap, fs, path::Path};

use super::{
    error::{Failure, cannot},
    overlay::{Area, Upper, mounting},
    request::{Step, User},
    step,
};

/// Tries everything that a step needs, below an existing, empty directory.
pub(super) fn run(directory: &Path) -> Result<(), Failure> {
    let path = |name: &str| directory.join(name);
    for name in ["lower", "lower/again", "empty", "upper", "work", "mount", "step-upper", "step-work", "step-mount"] {
        fs::create_dir(path(name)).map_err(cannot(format!("make {}", path(name).display())))?;
    }
    // An overlay that cannot store its marks mounts well and fails here.
    let area = Area::mount(&path("mount"))?;
    let upper = Upper { directory: &path("upper"), work: &path("work") };
    area.overlay("root", &[&path("lower"), &path("empty")], Some(upper))?;
    let again = path("mount/root/again");
    fs::remove_dir(&again).and_then(|()| fs::create_dir(&again)).map_err(mounting("re-create a lower directory"))?;
    let step = Step {
        lowers: vec![path("lower")],
        upper: path("step-upper"),
        work: path("step-work"),
        mount_point: path("step-mount"),
        arguments: Vec::new(),
        environment: BTreeMap::new(),
        working_directory: "/".to_owned(),
        user: User::default(),
        mounts: Vec::new(),
        network_none: false,
        script: None,
        hostname: "probe".to_owned(),
        layer: None,
    };
    // No layer is made, so nothing is asked.
    match step::run(&step, &mut |_| Ok(())) {
        // Everything else went well: the command is the last thing that a step needs.
        Ok(_) | Err(Failure::CommandNotFound { .. }) => Ok(()),
        Err(failure) => Err(failure),
    }
}
