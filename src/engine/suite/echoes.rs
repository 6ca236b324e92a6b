//! More read models of the same things: a batch that touches all of them.

use sea_orm::{ConnectionTrait, Schema};

use super::things::ThingEvent;
use crate::db::Database;
use crate::projection::{Inline, On, Rows};

macro_rules! echoes {
    ($($module:ident = $table:literal),+) => {
        $(#[allow(dead_code)] // what only GraphQL would call
        mod $module {
            use async_graphql::SimpleObject;
            use oriel_kernel::{OrganizationId, Recorded};
            use sea_orm::entity::prelude::*;

            use super::super::things::ThingId;
            use super::*;
            use crate::read::ReadModel;

            /// How often a thing was counted.
            #[derive(Clone, PartialEq, Debug, DeriveEntityModel, SimpleObject, ReadModel)]
            #[sea_orm(table_name = $table)]
            #[graphql(name = "Echo")]
            #[read_model(kind = $table, tenant = "organization_id")]
            pub struct Model {
                /// The thing.
                #[sea_orm(primary_key, auto_increment = false)]
                pub id: ThingId,
                #[graphql(skip)]
                pub organization_id: OrganizationId,
                /// How often.
                pub total: i64,
            }

            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}

            crate::projection! {
                /// See the row.
                pub Echo for Model, version 1, on ThingEvent
            }

            impl On<ThingEvent> for Echo {
                fn on(rows: &mut Rows<Model>, at: &Recorded, event: &ThingEvent) {
                    match event {
                        ThingEvent::Made { thing, organization, .. } => {
                            rows.insert(Model { id: *thing, organization_id: *organization, total: 0 });
                        }
                        ThingEvent::Counted { by } => rows.update(at.subject, |row| row.total += by),
                        ThingEvent::Labelled { .. }
                        | ThingEvent::Removed
                        | ThingEvent::Poisoned
                        | ThingEvent::Forgotten
                        | ThingEvent::RowsRemoved { .. }
                        | ThingEvent::MadeAnew { .. } => {}
                    }
                }
            }
        })+

        /// Makes their tables.
        pub async fn create(database: &Database) {
            let schema = Schema::new(database.backend());
            $(database.writer().execute(&schema.create_table_from_entity($module::Entity)).await.unwrap();)+
        }

        /// All of them.
        pub fn read_models() -> Vec<Box<dyn Inline>> {
            crate::read_models![$($module::Echo),+]
        }
    };
}

echoes! { first = "echo_first", second = "echo_second", third = "echo_third", fourth = "echo_fourth", fifth = "echo_fifth" }
