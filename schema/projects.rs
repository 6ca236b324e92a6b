//! Projects: making and changing them, and who belongs to them.

use std::sync::Arc;

use async_graphql::{Context, InputObject};
use oriel_domain::projects::{
    AddProjectMember, ArchiveProject, CreateProject, Description, ProjectId, ProjectKey, ProjectName,
    RemoveProjectMember, RestoreProject, UpdateProject,
};
use oriel_engine::read::{Connection, PageArgs};
use oriel_engine::{CommandContext, Committed};
use oriel_kernel::{MemberId, operations};
use oriel_read_models::projects::{Model as Project, ProjectFilter, ProjectOrder};

use crate::access::{Problems, Result, after_write, reader};
use crate::payload::payloads;
use crate::services::Services;

/// What can be asked about projects.
#[derive(Default)]
pub struct ProjectQuery;

/// What can be done with projects.
#[derive(Default)]
pub struct ProjectMutation;

payloads! {
    /// What became of a change of a project.
    ProjectPayload {
        /// The project as it is now.
        project: Arc<Project>,
    }
}

#[operations(query)]
impl ProjectQuery {
    /// The project with this id; null when there is none that you may see.
    #[permission("projects:view")]
    async fn project(&self, cx: &Context<'_>, id: ProjectId) -> Result<Option<Arc<Project>>> {
        Ok(reader(cx)?.get(id).await?)
    }

    /// The projects that you may see, oldest first unless another order is asked for.
    #[permission("projects:view")]
    #[allow(clippy::too_many_arguments)]
    async fn projects(
        &self,
        cx: &Context<'_>,
        #[graphql(desc = "How many, from the beginning; at most 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many, from the end; at most 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those for which this holds.")] filter: Option<ProjectFilter>,
        #[graphql(desc = "In which order.")] order_by: Option<Vec<ProjectOrder>>,
    ) -> Result<Connection<Project>> {
        let reader = reader(cx)?;
        let all = Project::in_org(reader.organization());
        Ok(reader.page(all, PageArgs::new(first, after, last, before), filter, order_by)?)
    }
}

#[operations(mutation)]
impl ProjectMutation {
    /// Creates a project. You own it and are its first member. Its key is unique in the organization and stays.
    #[permission("projects:create")]
    async fn project_create(&self, cx: &Context<'_>, input: ProjectCreateInput) -> Result<ProjectPayload> {
        let context = granted.command(cx, &input)?;
        let mut problems = Problems::default();
        let key = problems.take("key", ProjectKey::parse(&input.key));
        let name = problems.take("name", ProjectName::parse(&input.name));
        let description =
            problems.take("description", input.description.as_deref().map(Description::parse).transpose());
        let (Some(key), Some(name), Some(description)) = (key, name, description) else {
            return Err(problems.failure());
        };
        let owner = granted.viewer()?.member;
        let id = Services::of(cx)?.engine.new_id();
        let done =
            Services::of(cx)?.engine.execute(&context, id, CreateProject { key, name, description, owner }).await?;
        payload(cx, done).await
    }

    /// Changes the name or the description.
    #[permission("projects:edit")]
    async fn project_update(&self, cx: &Context<'_>, input: ProjectUpdateInput) -> Result<ProjectPayload> {
        let context = granted.command(cx, &input)?;
        let mut problems = Problems::default();
        let name = problems.take("name", input.name.as_deref().map(ProjectName::parse).transpose());
        let description =
            problems.take("description", input.description.as_deref().map(Description::parse).transpose());
        let (Some(name), Some(description)) = (name, description) else { return Err(problems.failure()) };
        execute(cx, &context, input.id, UpdateProject { name, description }).await
    }

    /// Closes a project: it stays readable and takes nothing new until it is restored.
    #[permission("projects:delete")]
    async fn project_archive(&self, cx: &Context<'_>, input: ProjectArchiveInput) -> Result<ProjectPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, ArchiveProject).await
    }

    /// Opens an archived project again.
    #[permission("projects:delete")]
    async fn project_restore(&self, cx: &Context<'_>, input: ProjectRestoreInput) -> Result<ProjectPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, RestoreProject).await
    }

    /// Lets a member of the organization see and use the project.
    #[permission("projects:edit")]
    async fn project_member_add(&self, cx: &Context<'_>, input: ProjectMemberAddInput) -> Result<ProjectPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, AddProjectMember { member: input.member_id }).await
    }

    /// Takes a member out of the project.
    #[permission("projects:edit")]
    async fn project_member_remove(&self, cx: &Context<'_>, input: ProjectMemberRemoveInput) -> Result<ProjectPayload> {
        execute(cx, &granted.command(cx, &input)?, input.id, RemoveProjectMember { member: input.member_id }).await
    }
}

async fn execute<C: oriel_kernel::Command<Aggregate = oriel_domain::projects::Project>>(
    cx: &Context<'_>,
    context: &CommandContext,
    id: ProjectId,
    command: C,
) -> Result<ProjectPayload> {
    let done = Services::of(cx)?.engine.execute(context, id, command).await?;
    payload(cx, done).await
}

async fn payload(cx: &Context<'_>, done: Committed) -> Result<ProjectPayload> {
    let project = after_write::<Project>(cx, done.subject).await?;
    Ok(ProjectPayload { project, user_errors: Vec::new(), position: Some(done.position) })
}

/// A new project.
#[derive(InputObject)]
struct ProjectCreateInput {
    /// What it is called.
    name: String,
    /// A short name for references: a capital letter, then 1 to 11 capital letters or digits.
    key: String,
    /// What it is for.
    description: Option<String>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// A change of a project. What is left out stays.
#[derive(InputObject)]
struct ProjectUpdateInput {
    /// Which project.
    id: ProjectId,
    /// What it is called.
    name: Option<String>,
    /// What it is for.
    description: Option<String>,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The project to be closed.
#[derive(InputObject)]
struct ProjectArchiveInput {
    /// Which project.
    id: ProjectId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// The project to be opened again.
#[derive(InputObject)]
struct ProjectRestoreInput {
    /// Which project.
    id: ProjectId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Who is to belong to which project.
#[derive(InputObject)]
struct ProjectMemberAddInput {
    /// Which project.
    id: ProjectId,
    /// Which member of the organization.
    member_id: MemberId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}

/// Who is to belong to which project no longer.
#[derive(InputObject)]
struct ProjectMemberRemoveInput {
    /// Which project.
    id: ProjectId,
    /// Which member of the organization.
    member_id: MemberId,
    /// Refuse the change unless this is the version now.
    expected_version: Option<i32>,
    /// Makes a retry safe: the same key gives the same answer and one write. Kept for 7 days.
    idempotency_key: Option<String>,
}
