//! `#[derive(ReadModel)]`: from one declaration, how a read model is filtered, ordered, scoped and announced.
//!
//! What it writes is only a table of the declaration: every decision is in `oriel_engine::read`.

use heck::{ToLowerCamelCase, ToUpperCamelCase};
use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Data, DeriveInput, Error, Expr, ExprLit, Fields, Ident, Lit, LitStr, Meta, Path, Result, Type};

/// What stands on the struct.
#[derive(Default)]
struct Model {
    table: Option<LitStr>,
    kind: Option<LitStr>,
    graphql_name: Option<LitStr>,
    name: Option<LitStr>,
    tenant: Option<LitStr>,
    visible_by: Option<LitStr>,
    owner: Option<LitStr>,
    scope: Option<Path>,
    /// Whether everyone of the same organisation, permissions and projects sees the same of it.
    shared: bool,
    collections: Vec<(Ident, LitStr)>,
}

/// What stands on a field.
struct Field {
    ident: Ident,
    ty: Type,
    name: String,
    doc: Option<String>,
    filter: bool,
    order: bool,
    scalar: bool,
}

/// Types that say themselves how they are filtered; what is none of these (nor ends with `Id`) is taken for an enum.
const SCALARS: &[&str] =
    &["String", "bool", "i32", "i64", "Timestamp", "DateTime", "DateTimeUtc", "Id", "ByteSize", "Tags"];

pub fn derive(input: DeriveInput) -> Result<TokenStream> {
    let model = Model::parse(&input)?;
    let fields = fields(&input)?;
    let name = match model.name.as_ref().or(model.graphql_name.as_ref()) {
        Some(name) => name.value(),
        None => {
            return Err(Error::new_spanned(
                &input.ident,
                "say `#[graphql(name = \"…\")]`: filter and order are named after it",
            ));
        }
    };
    let read_model = read_model(&input.ident, &model, &fields, &name)?;
    let collections = collections(&input.ident, &model, &fields)?;
    let filter = filter(&fields, &name);
    let order = order(&input.ident, &fields, &name);
    Ok(quote! { #read_model #collections #filter #order })
}

impl Model {
    fn parse(input: &DeriveInput) -> Result<Self> {
        let mut model = Self::default();
        for attribute in &input.attrs {
            if attribute.path().is_ident("sea_orm") {
                attribute.parse_nested_meta(|meta| take(&meta, "table_name", &mut model.table))?;
            } else if attribute.path().is_ident("graphql") {
                attribute.parse_nested_meta(|meta| take(&meta, "name", &mut model.graphql_name))?;
            } else if attribute.path().is_ident("read_model") {
                attribute.parse_nested_meta(|meta| model.read(&meta))?;
            }
        }
        let ways = [model.tenant.is_some(), model.owner.is_some(), model.scope.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err(Error::new_spanned(
                &input.ident,
                "say who sees a row, one of: `tenant = \"column\"`, `owner = \"column\"`, `scope = function`",
            ));
        }
        if model.visible_by.is_some() && model.tenant.is_none() {
            return Err(Error::new_spanned(&input.ident, "`visible_by` narrows `tenant`"));
        }
        if model.shared && model.scope.is_none() {
            return Err(Error::new_spanned(&input.ident, "`shared` says something of a `scope`"));
        }
        Ok(model)
    }

    fn read(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        match word.as_str() {
            "kind" => self.kind = Some(meta.value()?.parse()?),
            "name" => self.name = Some(meta.value()?.parse()?),
            "tenant" => self.tenant = Some(meta.value()?.parse()?),
            "visible_by" => self.visible_by = Some(meta.value()?.parse()?),
            "owner" => self.owner = Some(meta.value()?.parse()?),
            "scope" => self.scope = Some(meta.value()?.parse()?),
            "shared" => self.shared = true,
            "collections" => meta.parse_nested_meta(|inner| {
                let scope = inner.path.require_ident()?.clone();
                self.collections.push((scope, inner.value()?.parse()?));
                Ok(())
            })?,
            _ => {
                return Err(meta.error(
                    "expected `kind`, `name`, `tenant`, `visible_by`, `owner`, `scope`, `shared` or `collections`",
                ));
            }
        }
        Ok(())
    }
}

/// Takes `key = "text"` from another derive's attribute and passes over everything else in it.
fn take(meta: &ParseNestedMeta<'_>, key: &str, slot: &mut Option<LitStr>) -> Result<()> {
    if meta.path.is_ident(key) && meta.input.peek(syn::Token![=]) {
        *slot = Some(meta.value()?.parse()?);
    } else if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<TokenStream>()?;
    }
    Ok(())
}

fn fields(input: &DeriveInput) -> Result<Vec<Field>> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "a read model is a struct"));
    };
    let Fields::Named(named) = &data.fields else {
        return Err(Error::new_spanned(&input.ident, "the columns of a read model have names"));
    };
    named.named.iter().map(field).collect()
}

fn field(field: &syn::Field) -> Result<Field> {
    let ident = field.ident.clone().ok_or_else(|| Error::new_spanned(field, "a column has a name"))?;
    let (mut filter, mut order, mut scalar, mut name) = (false, false, false, None);
    for attribute in &field.attrs {
        if attribute.path().is_ident("read_model") {
            attribute.parse_nested_meta(|meta| {
                match () {
                    () if meta.path.is_ident("filter") => filter = true,
                    () if meta.path.is_ident("order") => order = true,
                    () if meta.path.is_ident("scalar") => scalar = true,
                    () => return Err(meta.error("expected `filter`, `order` or `scalar`")),
                }
                Ok(())
            })?;
        } else if attribute.path().is_ident("graphql") {
            attribute.parse_nested_meta(|meta| take(&meta, "name", &mut name))?;
        }
    }
    let name = name.map_or_else(|| ident.to_string().trim_start_matches("r#").to_lower_camel_case(), |n| n.value());
    Ok(Field { name, doc: doc(&field.attrs), ty: field.ty.clone(), ident, filter, order, scalar })
}

impl Field {
    fn column(&self) -> Ident {
        column(&self.ident)
    }

    /// The type that says how this column is filtered.
    fn filterable(&self) -> TokenStream {
        let (inner, optional) = match argument(&self.ty, "Option") {
            Some(inner) => (inner, true),
            None => (&self.ty, false),
        };
        let last = match inner {
            Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()).unwrap_or_default(),
            _ => String::new(),
        };
        let known = self.scalar || SCALARS.contains(&last.as_str()) || last.ends_with("Id");
        let column = if known { quote!(#inner) } else { quote!(::oriel_engine::read::EnumColumn<#inner>) };
        if optional { quote!(::std::option::Option<#column>) } else { column }
    }
}

fn column(field: &Ident) -> Ident {
    format_ident!("{}", field.to_string().trim_start_matches("r#").to_upper_camel_case(), span = field.span())
}

/// The column that a text names, if the struct has it.
fn column_named(text: &LitStr, fields: &[Field]) -> Result<(Ident, Ident)> {
    fields
        .iter()
        .find(|field| field.ident == text.value())
        .map(|field| (field.ident.clone(), field.column()))
        .ok_or_else(|| Error::new_spanned(text, "there is no such field"))
}

fn read_model(model: &Ident, declared: &Model, fields: &[Field], name: &str) -> Result<TokenStream> {
    let table =
        declared.table.as_ref().ok_or_else(|| Error::new_spanned(model, "say `#[sea_orm(table_name = \"…\")]`"))?;
    let kind = declared.kind.as_ref().ok_or_else(|| Error::new_spanned(model, "say `kind = \"…\"`"))?;
    let personal = declared.owner.is_some() || (declared.scope.is_some() && !declared.shared);
    let scope = scope(declared, fields)?;
    let mut touches = Vec::new();
    for (label, text) in &declared.collections {
        let (field, _) = column_named(text, fields)?;
        let label = label.to_string();
        touches.push(quote! {
            if let ::std::option::Option::Some(key) = ::oriel_engine::read::Key::key(&self.#field) {
                touch(::oriel_engine::read::Dependency::collection(#table, #label, key));
            }
        });
    }
    let columns = |wanted: fn(&Field) -> bool| {
        let columns = fields.iter().filter(|f| wanted(f)).map(Field::column);
        quote!(&[#(Column::#columns),*])
    };
    let (filters, orders) = (columns(|f| f.filter), columns(|f| f.order));
    let (filter, order) = (format_ident!("{name}Filter"), format_ident!("{name}Order"));
    let filter = match fields.iter().any(|f| f.filter) {
        true => quote!(#filter),
        false => quote!(::oriel_engine::read::Unfiltered),
    };
    let order = match fields.iter().any(|f| f.order) {
        true => quote!(#order),
        false => quote!(::oriel_engine::read::Unordered),
    };
    Ok(quote! {
        impl ::oriel_engine::read::ReadModel for #model {
            const TABLE: &'static str = #table;
            const KIND: &'static str = #kind;
            const NAME: &'static str = #name;
            const PERSONAL: bool = #personal;
            type Filter = #filter;
            type Order = #order;

            fn id(&self) -> ::uuid::Uuid {
                ::oriel_engine::read::Key::key(&self.id).unwrap_or_default()
            }

            fn id_column() -> Column {
                Column::Id
            }

            #[allow(unused_variables)]
            fn scope(
                viewer: &::oriel_kernel::Viewer,
                backend: ::sea_orm::DbBackend,
            ) -> ::sea_orm::Condition {
                #scope
            }

            fn dependencies(&self, touch: &mut dyn ::std::ops::FnMut(::oriel_engine::read::Dependency)) {
                touch(::oriel_engine::read::Dependency::row(#kind, ::oriel_engine::read::ReadModel::id(self)));
                #(#touches)*
            }

            fn declared() -> ::oriel_engine::read::Declared<Self> {
                ::oriel_engine::read::Declared { filters: #filters, orders: #orders }
            }
        }
    })
}

fn scope(declared: &Model, fields: &[Field]) -> Result<TokenStream> {
    if let Some(function) = &declared.scope {
        return Ok(quote!(#function(viewer, backend)));
    }
    let start = quote!(::sea_orm::Condition::all());
    if let Some(owner) = &declared.owner {
        let (_, column) = column_named(owner, fields)?;
        return Ok(quote!(#start.add(::sea_orm::ColumnTrait::eq(&Column::#column, viewer.person().uuid()))));
    }
    let Some(tenant) = &declared.tenant else { return Ok(start) };
    let (_, column) = column_named(tenant, fields)?;
    let tenant = quote!(#start.add(::sea_orm::ColumnTrait::eq(&Column::#column, viewer.organization.uuid())));
    let Some(part) = &declared.visible_by else { return Ok(tenant) };
    let (_, part) = column_named(part, fields)?;
    Ok(quote! {
        let tenant = #tenant;
        match &viewer.visible {
            ::oriel_kernel::Visible::All => tenant,
            ::oriel_kernel::Visible::Only(parts) => {
                tenant.add(::oriel_engine::read::among(Column::#part, parts.iter().copied(), backend))
            }
        }
    })
}

fn collections(model: &Ident, declared: &Model, fields: &[Field]) -> Result<TokenStream> {
    if declared.collections.is_empty() {
        return Ok(TokenStream::new());
    }
    let mut functions = Vec::new();
    for (label, text) in &declared.collections {
        let (field, column) = column_named(text, fields)?;
        let function = format_ident!("in_{label}", span = label.span());
        let doc = format!("The rows with this `{field}`.");
        let ty = fields.iter().find(|f| f.ident == field).map(|f| argument(&f.ty, "Option").unwrap_or(&f.ty));
        let label = label.to_string();
        functions.push(quote! {
            #[doc = #doc]
            pub fn #function(key: #ty) -> ::oriel_engine::read::Collection<Self> {
                let key = ::oriel_engine::read::Key::key(&key).unwrap_or_default();
                ::oriel_engine::read::Collection::new(#label, Column::#column, key)
            }
        });
    }
    Ok(quote!(impl #model { #(#functions)* }))
}

fn filter(fields: &[Field], name: &str) -> TokenStream {
    let fields: Vec<_> = fields.iter().filter(|f| f.filter).collect();
    if fields.is_empty() {
        return TokenStream::new();
    }
    let filter = format_ident!("{name}Filter");
    let about = format!("Conditions on a `{name}`; all that are given must hold.");
    let idents: Vec<_> = fields.iter().map(|f| &f.ident).collect();
    let names = fields.iter().map(|f| &f.name);
    let types: Vec<_> = fields.iter().map(|f| f.filterable()).collect();
    let columns = fields.iter().map(|f| f.column());
    let docs = fields.iter().map(|f| match &f.doc {
        Some(doc) => format!("By `{}`: {doc}", f.name),
        None => format!("By `{}`.", f.name),
    });
    quote! {
        #[doc = #about]
        #[derive(::async_graphql::InputObject, Clone, Debug, Default)]
        pub struct #filter {
            /// All of these hold; an empty list holds always.
            pub and: ::std::option::Option<::std::vec::Vec<#filter>>,
            /// At least one of these holds; an empty list never does.
            pub or: ::std::option::Option<::std::vec::Vec<#filter>>,
            /// This does not hold.
            pub not: ::std::option::Option<::std::boxed::Box<#filter>>,
            #(
                #[doc = #docs]
                #[graphql(name = #names)]
                pub #idents: ::std::option::Option<<#types as ::oriel_engine::read::Filterable>::Filter>,
            )*
        }

        impl ::oriel_engine::read::Filter for #filter {
            fn condition(
                &self,
                within: &::oriel_engine::read::Within<'_>,
            ) -> ::std::result::Result<::sea_orm::Condition, ::oriel_engine::read::ReadError> {
                let mut all = within.combine(self.and.as_deref(), self.or.as_deref(), self.not.as_deref())?;
                #(
                    if let ::std::option::Option::Some(filter) = &self.#idents {
                        all = all.add(<#types as ::oriel_engine::read::Filterable>::condition(
                            filter,
                            within.column(Column::#columns),
                            within,
                        )?);
                    }
                )*
                ::std::result::Result::Ok(all)
            }
        }
    }
}

fn order(model: &Ident, fields: &[Field], name: &str) -> TokenStream {
    let fields: Vec<_> = fields.iter().filter(|f| f.order).collect();
    if fields.is_empty() {
        return TokenStream::new();
    }
    let (order, key) = (format_ident!("{name}Order"), format_ident!("{name}OrderField"));
    let about_order = format!("One key of an order of `{name}`s; the next one decides between equals, the id at last.");
    let about_key = format!("What a `{name}` can be ordered by.");
    let columns: Vec<_> = fields.iter().map(|f| f.column()).collect();
    let docs = fields.iter().map(|f| match &f.doc {
        Some(doc) => format!("By `{}`: {doc}", f.name),
        None => format!("By `{}`.", f.name),
    });
    quote! {
        #[doc = #about_key]
        #[derive(::async_graphql::Enum, Clone, Copy, PartialEq, Eq, Debug)]
        pub enum #key {
            #( #[doc = #docs] #columns, )*
        }

        #[doc = #about_order]
        #[derive(::async_graphql::InputObject, Clone, Debug)]
        pub struct #order {
            /// What to order by.
            pub field: #key,
            /// In which direction.
            #[graphql(default)]
            pub direction: ::oriel_engine::read::OrderDirection,
        }

        impl ::oriel_engine::read::Sorting<#model> for #order {
            fn key(&self) -> (Column, ::oriel_engine::read::OrderDirection) {
                let column = match self.field {
                    #( #key::#columns => Column::#columns, )*
                };
                (column, self.direction)
            }
        }
    }
}

/// The first paragraph of a documentation.
fn doc(attributes: &[Attribute]) -> Option<String> {
    let lines = attributes.iter().filter(|a| a.path().is_ident("doc")).filter_map(|a| match &a.meta {
        Meta::NameValue(pair) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let paragraph: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    (!paragraph.is_empty()).then(|| paragraph.join(" "))
}

fn argument<'a>(ty: &'a Type, outer: &str) -> Option<&'a Type> {
    let Type::Path(path) = ty else { return None };
    let segment = path.path.segments.last().filter(|s| s.ident == outer)?;
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|a| match a {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}
