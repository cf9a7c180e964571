//! The SSH agents that the build was given, and a socket of one for each step that mounts it.

use std::{collections::BTreeMap, sync::Arc};

use super::{error::StepError, work::WorkDirectory};
use crate::{
    agent::{Agent, AgentError, AgentSocket},
    options::AgentSource,
    plan::graph::{Attributes, SshMount},
};

/// The agents by id.
#[derive(Debug, Default)]
pub struct Agents(BTreeMap<String, Arc<Agent>>);

impl Agents {
    /// Reads all keys. The id of the agent that cannot be used is with its error.
    pub fn open(sources: &BTreeMap<String, AgentSource>) -> Result<Self, (String, AgentError)> {
        let open = |(id, source): (&String, &AgentSource)| match Agent::open(source) {
            Ok(agent) => Ok((id.clone(), Arc::new(agent))),
            Err(error) => Err((id.clone(), error)),
        };
        sources.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Opens a socket for a mount; `None` when the agent was not given and is not required.
    pub(super) fn socket(&self, mount: &SshMount, work: &WorkDirectory) -> Result<Option<AgentSocket>, StepError> {
        let Some(agent) = self.0.get(&mount.id) else {
            return if mount.required { Err(StepError::AgentMissing(mount.id.clone())) } else { Ok(None) };
        };
        let attributes = Attributes { mode: mount.mode, uid: mount.uid, gid: mount.gid };
        let directory = work.directory("agent").map_err(StepError::Work)?;
        AgentSocket::open(Arc::clone(agent), &directory, attributes).map(Some).map_err(StepError::Work)
    }
}
