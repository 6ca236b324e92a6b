//! The table of a read model: an `id`, its columns, its indexes.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::uuid;
use sea_orm_migration::sea_orm::DbBackend;

/// The table of a read model, to be made.
pub(crate) struct ReadModel {
    name: &'static str,
    table: TableCreateStatement,
    indexes: Vec<IndexCreateStatement>,
}

impl ReadModel {
    /// A table with the primary key `id`.
    pub(crate) fn new(name: &'static str, columns: impl IntoIterator<Item = ColumnDef>) -> Self {
        let mut table = Table::create().table(Alias::new(name)).col(uuid("id").primary_key()).to_owned();
        for column in columns {
            table.col(column);
        }
        Self { name, table, indexes: Vec::new() }
    }

    /// An index on these columns, named after them.
    pub(crate) fn index(mut self, columns: &[&str]) -> Self {
        self.indexes.push(self.index_on(columns));
        self
    }

    /// An index on these columns, whose values no two rows share.
    pub(crate) fn unique(mut self, columns: &[&str]) -> Self {
        let mut index = self.index_on(columns);
        self.indexes.push(index.unique().to_owned());
        self
    }

    /// For each column an index behind these first ones, with the id at its end: it answers the filter by that column
    /// and gives its order with ties broken, within the tenant (or the collection) that the first columns name.
    pub(crate) fn within(self, first: &[&str], columns: &[&str]) -> Self {
        columns.iter().fold(self, |this, column| this.index(&[first, &[column, "id"]].concat()))
    }

    /// Makes the table and its indexes, and on PostgreSQL an inverted index for each column that holds a list of
    /// words; SQLite has none, and looks through the rows of the tenant.
    pub(crate) async fn create(self, manager: &SchemaManager<'_>, lists_of_words: &[&str]) -> Result<(), DbErr> {
        manager.create_table(self.table.clone()).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            for column in lists_of_words {
                let mut index = self.index_on(&[column]);
                manager.create_index(index.full_text().to_owned()).await?;
            }
        }
        for index in self.indexes {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    fn index_on(&self, columns: &[&str]) -> IndexCreateStatement {
        let mut index = Index::create();
        index.name(format!("ix_{}_{}", self.name, columns.join("_"))).table(Alias::new(self.name));
        for column in columns {
            index.col(Alias::new(*column));
        }
        index.to_owned()
    }
}
