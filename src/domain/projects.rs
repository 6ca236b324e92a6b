//! Projects: a named place for documents and people inside an organisation.
//!
//! Invariants: a key is unique in its organisation and never changes. The owner is a member from the beginning, until
//! they leave the organisation. An archived project accepts only restore, and that somebody leaves. "One's own" project
//! is the one that one owns.
//!
//! Nothing here knows what is in a project: documents ask for the fact that it is active.

use std::collections::BTreeSet;

use oriel_kernel::{
    Aggregate, Command, Decision, ErrorCode, Event, Fact, Given, Grant, MemberId, OrganizationId, Outcome, Rejection,
    Visible, bounded_text, ids,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::members;

ids! {
    /// A project.
    ProjectId = "prj",
}

// --- events ----------------------------------------------------------------------------------------------------

/// What can happen to a project.
#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "project")]
pub enum ProjectEvent {
    /// Was made; its owner is its first member.
    #[event("project_created")]
    Created {
        /// Itself: the part of the organisation that it is.
        project: ProjectId,
        /// Where.
        organization: OrganizationId,
        /// Its short name, for ever.
        key: ProjectKey,
        /// What it is called.
        name: ProjectName,
        /// What it is about.
        description: Option<Description>,
        /// Whose it is.
        owner: MemberId,
    },
    /// Is called otherwise.
    #[event("project_renamed")]
    Renamed {
        /// What it is called now.
        name: ProjectName,
    },
    /// Is described otherwise.
    #[event("project_described")]
    Described {
        /// What it is about; empty for nothing.
        description: Description,
    },
    /// Is put away.
    #[event("project_archived")]
    Archived,
    /// Is in use again.
    #[event("project_restored")]
    Restored,
    /// Has one more member.
    #[event("project_member_added")]
    MemberAdded {
        /// Who.
        member: MemberId,
    },
    /// Has one member less.
    #[event("project_member_removed")]
    MemberRemoved {
        /// Who.
        member: MemberId,
    },
}

// --- parsed types ------------------------------------------------------------------------------------------------

bounded_text! {
    /// What a project is called.
    ProjectName: 1..=120,
    /// What a project is about; empty for nothing.
    Description: 0..=4000 multiline,
}

/// The short name of a project: a capital letter, then 1 to 11 capital letters or digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectKey(String);

impl ProjectKey {
    /// The key, trimmed.
    ///
    /// # Errors
    /// `REQUIRED` when empty, `TOO_LONG` beyond 12 characters, `INVALID` when it is no key.
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        let text = oriel_kernel::input::bounded(text, 2, 12, false)?;
        let fits = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if !fits {
            let message = "A key is a capital letter and 1 to 11 capital letters or digits, such as ATLAS2.";
            return Err(Rejection::new(ErrorCode::Invalid, message));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ProjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

// --- state -------------------------------------------------------------------------------------------------------

/// What decides about a project's next command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Project {
    organization: Option<OrganizationId>,
    id: ProjectId,
    name: ProjectName,
    description: Description,
    owner: MemberId,
    members: BTreeSet<MemberId>,
    archived: bool,
}

impl Aggregate for Project {
    type Kind = kinds::ProjectId;
    type Event = ProjectEvent;
    const NOUN: &'static str = "project";

    fn evolve(&mut self, event: &ProjectEvent) {
        match event {
            ProjectEvent::Created { project, organization, key: _, name, description, owner } => {
                self.organization = Some(*organization);
                self.id = *project;
                self.name = name.clone();
                self.description = description.clone().unwrap_or_default();
                self.owner = *owner;
                self.members.insert(*owner);
            }
            ProjectEvent::Renamed { name } => self.name = name.clone(),
            ProjectEvent::Described { description } => self.description = description.clone(),
            ProjectEvent::Archived => self.archived = true,
            ProjectEvent::Restored => self.archived = false,
            ProjectEvent::MemberAdded { member } => {
                self.members.insert(*member);
            }
            ProjectEvent::MemberRemoved { member } => {
                self.members.remove(member);
            }
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }

    fn scope(&self) -> Option<Uuid> {
        self.organization.map(|_| self.id.uuid())
    }
}

impl Project {
    /// How many members a project may have.
    pub const MAX_MEMBERS: usize = 10_000;

    fn must_be_theirs(&self, given: &Given<'_>) -> Result<(), Rejection> {
        if given.grant == Grant::Own && !given.is(self.owner) {
            return Err(crate::not_yours(Self::NOUN));
        }
        Ok(())
    }

    fn must_be_open(&self) -> Result<(), Rejection> {
        if self.archived {
            return Err(Rejection::conflict("This project is archived. Restore it first."));
        }
        Ok(())
    }
}

// --- facts -------------------------------------------------------------------------------------------------------

/// That this project of this organisation is active: made and not archived.
pub fn active(organization: OrganizationId, project: ProjectId) -> Fact {
    Fact::new("project_active", organization, project.to_string())
}

fn key_fact(organization: OrganizationId, key: &ProjectKey) -> Fact {
    Fact::new("project_key", organization, key.as_str())
}

fn already_active() -> Rejection {
    Rejection::conflict("This project is active already.")
}

fn already_in() -> Rejection {
    Rejection::conflict("This member is in the project already.").at("memberId")
}

// --- commands ----------------------------------------------------------------------------------------------------

/// Makes a project in the organisation in which the actor acts.
pub struct CreateProject {
    /// Its short name, for ever.
    pub key: ProjectKey,
    /// What it is called.
    pub name: ProjectName,
    /// What it is about.
    pub description: Option<Description>,
    /// Whose it is.
    pub owner: MemberId,
}

impl Command for CreateProject {
    type Aggregate = Project;
    const CREATES: bool = true;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        crate::must_be_new(project)?;
        let (organization, id) = (given.organization, ProjectId::from_uuid(given.id));
        let taken = Rejection::taken("Another project of this organization has this key. Choose another.").at("key");
        let inactive = Rejection::new(ErrorCode::Forbidden, "Only an active member can own a project.");
        Ok(Outcome::events([ProjectEvent::Created {
            project: id,
            organization,
            key: self.key.clone(),
            name: self.name.clone(),
            description: self.description.clone().filter(|text| !text.as_str().is_empty()),
            owner: self.owner,
        }])
        .claim(key_fact(organization, &self.key), taken)
        .claim(active(organization, id), already_active())
        .claim(Visible::fact(self.owner, id.uuid()), already_in())
        .require(members::active(organization, self.owner), inactive))
    }
}

/// Changes name and description, as far as they are given.
pub struct UpdateProject {
    /// What it is called from now on.
    pub name: Option<ProjectName>,
    /// What it is about; empty for nothing.
    pub description: Option<Description>,
}

impl Command for UpdateProject {
    type Aggregate = Project;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        project.must_be_theirs(given)?;
        project.must_be_open()?;
        let name = self.name.clone().filter(|name| *name != project.name);
        let description = self.description.clone().filter(|description| *description != project.description);
        let renamed = name.map(|name| ProjectEvent::Renamed { name });
        let described = description.map(|description| ProjectEvent::Described { description });
        Ok(Outcome::events(renamed.into_iter().chain(described)))
    }
}

/// Puts a project away: it and its documents can be read, and nothing is added.
pub struct ArchiveProject;

impl Command for ArchiveProject {
    type Aggregate = Project;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        project.must_be_theirs(given)?;
        let Some(organization) = project.organization.filter(|_| !project.archived) else {
            return Ok(Outcome::nothing());
        };
        Ok(Outcome::events([ProjectEvent::Archived]).release(active(organization, project.id)))
    }
}

/// Takes an archived project into use again.
pub struct RestoreProject;

impl Command for RestoreProject {
    type Aggregate = Project;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        project.must_be_theirs(given)?;
        let Some(organization) = project.organization.filter(|_| project.archived) else {
            return Ok(Outcome::nothing());
        };
        Ok(Outcome::events([ProjectEvent::Restored]).claim(active(organization, project.id), already_active()))
    }
}

/// Lets a member of the organisation into the project.
pub struct AddProjectMember {
    /// Who.
    pub member: MemberId,
}

impl Command for AddProjectMember {
    type Aggregate = Project;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        project.must_be_theirs(given)?;
        project.must_be_open()?;
        if project.members.contains(&self.member) {
            return Ok(Outcome::nothing());
        }
        if project.members.len() >= Project::MAX_MEMBERS {
            let message = format!("A project has at most {} members.", Project::MAX_MEMBERS);
            return Err(Rejection::new(ErrorCode::LimitExceeded, message));
        }
        let inactive = Rejection::new(ErrorCode::NotFound, "There is no such active member.").at("memberId");
        Ok(Outcome::events([ProjectEvent::MemberAdded { member: self.member }])
            .claim(Visible::fact(self.member, project.id.uuid()), already_in())
            .require(members::active(given.organization, self.member), inactive))
    }
}

/// Takes a member out of the project.
pub struct RemoveProjectMember {
    /// Who.
    pub member: MemberId,
}

impl Command for RemoveProjectMember {
    type Aggregate = Project;

    fn decide(&self, project: &Project, given: &Given<'_>) -> Decision<ProjectEvent> {
        project.must_be_theirs(given)?;
        project.must_be_open()?;
        if project.owner == self.member {
            return Err(Rejection::conflict("The owner of a project stays a member of it.").at("memberId"));
        }
        if !project.members.contains(&self.member) {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([ProjectEvent::MemberRemoved { member: self.member }])
            .release(Visible::fact(self.member, project.id.uuid())))
    }
}

/// Takes a member out of the project who leaves the organisation: also its owner, and also out of an archived one.
pub struct LeaveProject {
    /// Who.
    pub member: MemberId,
}

impl Command for LeaveProject {
    type Aggregate = Project;

    fn decide(&self, project: &Project, _: &Given<'_>) -> Decision<ProjectEvent> {
        if !project.members.contains(&self.member) {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([ProjectEvent::MemberRemoved { member: self.member }])
            .release(Visible::fact(self.member, project.id.uuid())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use oriel_kernel::Actor;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Desk, member, uuid};

    fn name(text: &str) -> ProjectName {
        ProjectName::parse(text).unwrap()
    }

    fn create(key: &str) -> CreateProject {
        CreateProject { key: ProjectKey::parse(key).unwrap(), name: name("Atlas"), description: None, owner: member(1) }
    }

    fn rename(to: &str) -> UpdateProject {
        UpdateProject { name: Some(name(to)), description: None }
    }

    fn atlas() -> (Desk, Project) {
        let (mut desk, mut project) = (Desk::new(), Project::default());
        for number in 1..4 {
            desk.facts.insert(members::active(desk.organization, member(number)));
        }
        desk.done(uuid(7), &mut project, &create("ATLAS"));
        (desk, project)
    }

    #[test]
    fn a_key_is_unique_in_its_organization() {
        let (mut desk, project) = atlas();
        assert_eq!(desk.refused(uuid(8), &Project::default(), &create("ATLAS")), (ErrorCode::Taken, "key"));
        assert_eq!(desk.refused(uuid(7), &project, &create("OTHER")), (ErrorCode::Conflict, ""));
        desk.organization = OrganizationId::from_uuid(uuid(2));
        assert_eq!(desk.refused(uuid(8), &Project::default(), &create("ATLAS")), (ErrorCode::Forbidden, ""));
        desk.facts.insert(members::active(desk.organization, member(1)));
        desk.done(uuid(8), &mut Project::default(), &create("ATLAS"));
    }

    #[test]
    fn the_owner_is_a_member_and_stays() {
        let (mut desk, mut project) = atlas();
        assert_eq!(desk.done(uuid(7), &mut project, &AddProjectMember { member: member(1) }), []);
        let owner = RemoveProjectMember { member: member(1) };
        assert_eq!(desk.refused(uuid(7), &project, &owner), (ErrorCode::Conflict, "memberId"));
    }

    #[test]
    fn who_leaves_the_organization_leaves_the_project() {
        let (mut desk, mut project) = atlas();
        desk.done(uuid(7), &mut project, &AddProjectMember { member: member(2) });
        desk.done(uuid(7), &mut project, &ArchiveProject);
        for number in [1, 2] {
            let gone = desk.done(uuid(7), &mut project, &LeaveProject { member: member(number) });
            assert_eq!(gone, [ProjectEvent::MemberRemoved { member: member(number) }]);
            assert_eq!(desk.done(uuid(7), &mut project, &LeaveProject { member: member(number) }), []);
        }
        assert!(desk.facts.iter().all(|fact| !fact.scope.starts_with("sees")));
    }

    #[test]
    fn members_are_active_members_of_the_organization() {
        let (mut desk, mut project) = atlas();
        let stranger = AddProjectMember { member: member(9) };
        assert_eq!(desk.refused(uuid(7), &project, &stranger), (ErrorCode::NotFound, "memberId"));
        desk.facts.insert(members::active(OrganizationId::from_uuid(uuid(2)), member(9)));
        assert_eq!(desk.refused(uuid(7), &project, &stranger), (ErrorCode::NotFound, "memberId"));
        let added = desk.done(uuid(7), &mut project, &AddProjectMember { member: member(2) });
        assert_eq!(added, [ProjectEvent::MemberAdded { member: member(2) }]);
        assert_eq!(desk.done(uuid(7), &mut project, &AddProjectMember { member: member(2) }), []);
        assert_eq!(desk.done(uuid(7), &mut project, &RemoveProjectMember { member: member(2) }).len(), 1);
        assert_eq!(desk.done(uuid(7), &mut project, &RemoveProjectMember { member: member(2) }), []);
    }

    #[test]
    fn an_update_writes_what_changed() {
        let (mut desk, mut project) = atlas();
        assert_eq!(desk.done(uuid(7), &mut project, &rename("Atlas")), []);
        let description = Description::parse("Maps.\nAll of them.").unwrap();
        let both = UpdateProject { name: Some(name("Atlas 2")), description: Some(description.clone()) };
        assert_eq!(
            desk.done(uuid(7), &mut project, &both),
            [ProjectEvent::Renamed { name: name("Atlas 2") }, ProjectEvent::Described { description }]
        );
        assert_eq!(desk.done(uuid(7), &mut project, &both), []);
        let emptied = UpdateProject { name: None, description: Some(Description::default()) };
        assert_eq!(desk.done(uuid(7), &mut project, &emptied).len(), 1);
    }

    #[test]
    fn an_archived_project_accepts_only_restore() {
        let (mut desk, mut project) = atlas();
        let active = active(desk.organization, ProjectId::from_uuid(uuid(7)));
        desk.done(uuid(7), &mut project, &ArchiveProject);
        assert!(!desk.facts.contains(&active));
        let conflict = (ErrorCode::Conflict, "");
        assert_eq!(desk.refused(uuid(7), &project, &rename("Other")), conflict);
        assert_eq!(desk.refused(uuid(7), &project, &AddProjectMember { member: member(2) }), conflict);
        assert_eq!(desk.refused(uuid(7), &project, &RemoveProjectMember { member: member(2) }), conflict);
        assert_eq!(desk.done(uuid(7), &mut project, &ArchiveProject), []);
        assert_eq!(desk.done(uuid(7), &mut project, &RestoreProject), [ProjectEvent::Restored]);
        assert!(desk.facts.contains(&active));
        assert_eq!(desk.done(uuid(7), &mut project, &RestoreProject), []);
    }

    #[test]
    fn with_a_grant_for_their_own_only_the_owner_changes_it() {
        let (mut desk, mut project) = atlas();
        desk.grant = Grant::Own;
        desk.actor = Actor::Member(member(2));
        let forbidden = (ErrorCode::Forbidden, "");
        assert_eq!(desk.refused(uuid(7), &project, &rename("Mine")), forbidden);
        assert_eq!(desk.refused(uuid(7), &project, &ArchiveProject), forbidden);
        assert_eq!(desk.refused(uuid(7), &project, &AddProjectMember { member: member(2) }), forbidden);
        desk.actor = Actor::Member(member(1));
        assert_eq!(desk.done(uuid(7), &mut project, &rename("Mine")).len(), 1);
    }

    #[test]
    fn keys() {
        for good in ["AB", "A1", "ATLAS2", "ABCDEFGHIJKL", " AB "] {
            assert!(ProjectKey::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "1A", "atlas", "A-B", "ABCDEFGHIJKLM", "ÄB"] {
            assert!(ProjectKey::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_head_of_this_file_holds(
            steps in prop::collection::vec((0u8..7, 0u128..5, any::<bool>()), 0..60),
        ) {
            let (mut desk, mut project) = atlas();
            let organization = desk.organization;
            let mut history = Vec::new();
            for (what, who, own) in steps {
                desk.grant = if own { Grant::Own } else { Grant::All };
                desk.actor = Actor::Member(member(who));
                let before = project.clone();
                let written = match what {
                    0 => desk.execute(uuid(7), &mut project, &create("OTHER")),
                    1 => desk.execute(uuid(7), &mut project, &rename(&format!("Atlas {who}"))),
                    2 => desk.execute(uuid(7), &mut project, &ArchiveProject),
                    3 => desk.execute(uuid(7), &mut project, &RestoreProject),
                    4 => desk.execute(uuid(7), &mut project, &AddProjectMember { member: member(who) }),
                    5 => desk.execute(uuid(7), &mut project, &RemoveProjectMember { member: member(who) }),
                    _ => {
                        let emptied = UpdateProject { name: None, description: Some(Description::default()) };
                        desk.execute(uuid(7), &mut project, &emptied)
                    }
                };
                if let Ok(events) = &written {
                    prop_assert!(events.is_empty() || !own || who == 1, "somebody else's project was changed");
                    prop_assert!(!before.archived || events.is_empty() || events == &[ProjectEvent::Restored]);
                    history.extend(events.clone());
                } else {
                    prop_assert_eq!(&before, &project);
                }
                prop_assert!(project.members.contains(&project.owner));
                let active = desk.facts.contains(&active(organization, project.id));
                prop_assert_eq!(active, !project.archived);
                for member in (0..5).map(member) {
                    let sees = desk.facts.contains(&Visible::fact(member, uuid(7)));
                    prop_assert_eq!(sees, project.members.contains(&member));
                }
                prop_assert_eq!(project.scope(), Some(uuid(7)));
            }
            let mut replayed = atlas().1;
            history.iter().for_each(|event| replayed.evolve(event));
            prop_assert_eq!(replayed, project);
        }
    }
}
