//! A toy product: things with a unique label, an owner who is a person, and a count. Enough to move every part of the
//! engine.

use async_graphql::SimpleObject;
use oriel_kernel::{
    Aggregate, Command, Decision, Effect, Event, EventDecoder, Fact, Given, OrganizationId, Outcome, Personal,
    Recorded, Rejection, Timestamp, UserId, ids,
};
use sea_orm::entity::prelude::*;

use crate::projection::{Inline, On, Rows};
use crate::read::ReadModel;

ids! {
    /// A thing.
    ThingId = "thg",
}

#[derive(Clone, Debug, PartialEq, Event)]
#[event(stream = "thing", effect = ThingEvent::does)]
pub enum ThingEvent {
    #[event("thing_made")]
    Made { thing: ThingId, organization: OrganizationId, label: String, owner: Personal<String> },
    #[event("thing_labelled", version = 2, upcast = labelled_v1_to_v2)]
    Labelled { label: String, why: String },
    #[event("thing_counted")]
    Counted { by: i64 },
    #[event("thing_removed")]
    Removed,
    /// The projection cannot bear it.
    #[event("thing_poisoned")]
    Poisoned,
    /// The data key of its id is destroyed.
    #[event("thing_forgotten")]
    Forgotten,
    #[event("thing_rows_removed")]
    RowsRemoved { rows: Vec<Uuid> },
    #[event("thing_made_anew")]
    MadeAnew { subjects: Vec<Uuid> },
}

impl ThingEvent {
    fn does(&self) -> Option<Effect<'_>> {
        match self {
            Self::Forgotten => Some(Effect::DestroysKey),
            Self::RowsRemoved { rows } => Some(Effect::RemovesRows { read_model: "toys", ids: rows }),
            Self::MadeAnew { subjects } => Some(Effect::MakesAnew { subjects }),
            _ => None,
        }
    }
}

/// Version 1 said `name` and no reason.
fn labelled_v1_to_v2(mut old: serde_json::Value) -> serde_json::Value {
    let label = old["name"].take();
    serde_json::json!({ "label": label, "why": "unknown" })
}

pub static DECODERS: [EventDecoder; 1] = [EventDecoder::of::<Thing>()];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thing {
    organization: Option<OrganizationId>,
    pub label: String,
    pub owner: Option<Personal<String>>,
    pub count: i64,
}

impl Aggregate for Thing {
    type Kind = kinds::ThingId;
    type Event = ThingEvent;
    const NOUN: &'static str = "thing";

    fn evolve(&mut self, event: &ThingEvent) {
        match event {
            ThingEvent::Made { thing: _, organization, label, owner } => {
                self.organization = Some(*organization);
                self.label = label.clone();
                self.owner = Some(owner.clone());
            }
            ThingEvent::Labelled { label, why: _ } => self.label = label.clone(),
            ThingEvent::Counted { by } => self.count += by,
            ThingEvent::Removed => self.organization = None,
            ThingEvent::Poisoned
            | ThingEvent::Forgotten
            | ThingEvent::RowsRemoved { .. }
            | ThingEvent::MadeAnew { .. } => {}
        }
    }

    fn tenant(&self) -> Option<OrganizationId> {
        self.organization
    }
}

fn label_fact(given: &Given<'_>, label: &str) -> Fact {
    Fact::new("thing_label", given.organization, label)
}

/// That a thing is there.
pub fn there(thing: ThingId) -> Fact {
    Fact::new("thing", thing, "there")
}

#[derive(Clone)]
pub struct Make {
    pub label: String,
    pub owner: UserId,
    pub name: &'static str,
}

impl Command for Make {
    type Aggregate = Thing;
    const CREATES: bool = true;

    fn decide(&self, state: &Thing, given: &Given<'_>) -> Decision<ThingEvent> {
        if state.organization.is_some() {
            return Err(Rejection::conflict("The thing is there."));
        }
        let thing = ThingId::from_uuid(given.id);
        let made = ThingEvent::Made {
            thing,
            organization: given.organization,
            label: self.label.clone(),
            owner: Personal::new(self.owner, self.name.to_owned()),
        };
        Ok(Outcome::events([made])
            .claim(label_fact(given, &self.label), Rejection::taken("The label is taken.").at("label"))
            .claim(there(thing), Rejection::conflict("The thing is there.")))
    }
}

pub struct Label(pub String);

impl Command for Label {
    type Aggregate = Thing;

    fn decide(&self, state: &Thing, given: &Given<'_>) -> Decision<ThingEvent> {
        if state.label == self.0 {
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::events([ThingEvent::Labelled { label: self.0.clone(), why: "asked".to_owned() }])
            .release(label_fact(given, &state.label))
            .claim(label_fact(given, &self.0), Rejection::taken("The label is taken.").at("label")))
    }
}

/// Counts on, in `times` events, if the other thing is there.
pub struct Count {
    pub by: i64,
    pub times: usize,
    pub beside: Option<ThingId>,
}

impl Count {
    pub fn once() -> Self {
        Self { by: 1, times: 1, beside: None }
    }
}

impl Command for Count {
    type Aggregate = Thing;

    fn decide(&self, _: &Thing, _: &Given<'_>) -> Decision<ThingEvent> {
        let outcome = Outcome::events((0..self.times).map(|_| ThingEvent::Counted { by: self.by }));
        Ok(match self.beside {
            None => outcome,
            Some(other) => outcome.require(there(other), Rejection::not_found("other thing")),
        })
    }
}

pub struct Remove;

impl Command for Remove {
    type Aggregate = Thing;

    fn decide(&self, state: &Thing, given: &Given<'_>) -> Decision<ThingEvent> {
        Ok(Outcome::events([ThingEvent::Removed])
            .release(label_fact(given, &state.label))
            .release(there(ThingId::from_uuid(given.id))))
    }
}

pub struct Poison;

impl Command for Poison {
    type Aggregate = Thing;

    fn decide(&self, _: &Thing, _: &Given<'_>) -> Decision<ThingEvent> {
        Ok(Outcome::events([ThingEvent::Poisoned]))
    }
}

/// Lets these things happen to a thing.
pub struct Happen(pub Vec<ThingEvent>);

impl Command for Happen {
    type Aggregate = Thing;

    fn decide(&self, _: &Thing, _: &Given<'_>) -> Decision<ThingEvent> {
        Ok(Outcome::events(self.0.clone()))
    }
}

/// A thing, as it is read.
#[derive(Clone, PartialEq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
#[sea_orm(table_name = "toys")]
#[graphql(name = "Toy")]
#[read_model(kind = "toy", tenant = "organization_id", collections(org = "organization_id"))]
pub struct Model {
    /// Its id.
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: ThingId,
    #[graphql(skip)]
    pub organization_id: OrganizationId,
    /// What is written on it.
    #[read_model(filter, order)]
    #[sea_orm(column_type = "Text")]
    pub label: String,
    /// Whose it is.
    #[sea_orm(column_type = "Text", nullable)]
    pub owner: Option<String>,
    /// How often it was counted.
    pub total: i64,
    /// When it was touched last.
    pub updated_at: Timestamp,
    /// The optimistic version.
    pub version: i32,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

crate::projection! {
    /// Things, as they are read.
    pub Things for Model, version 1, on ThingEvent
}

impl On<ThingEvent> for Things {
    fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ThingEvent) {
        match event {
            ThingEvent::Made { thing, organization, label, owner } => rows.insert(Model {
                id: *thing,
                organization_id: *organization,
                label: label.clone(),
                owner: owner.get().cloned(),
                total: 0,
                updated_at: at.at,
                version: at.version,
            }),
            ThingEvent::Labelled { label, why: _ } => rows.update(at.subject, |row| row.label = label.clone()),
            ThingEvent::Counted { by } => rows.update(at.subject, |row| row.total += by),
            ThingEvent::Removed => rows.delete(at.subject),
            ThingEvent::Poisoned => panic!("as these tests want it"),
            ThingEvent::Forgotten | ThingEvent::RowsRemoved { .. } | ThingEvent::MadeAnew { .. } => {}
        }
        rows.update(at.subject, |row| {
            row.version = at.version;
            row.updated_at = at.at;
        });
    }
}

pub fn read_models() -> Vec<Box<dyn Inline>> {
    crate::read_models![Things]
}
