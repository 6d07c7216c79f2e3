"""``fusegpt recipes``: which recipes there are, and what every setting of one means."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("recipe", required=False)
@click.option(
    "--schema",
    type=click.Choice(["recipe", "experiment"]),
    help="Print the JSON schema of such a file, for editors.",
)
@click.option("--tables", is_flag=True, help="Print the settings of all methods, as Markdown.")
def recipes(recipe: str | None, schema: str | None, tables: bool) -> None:
    """List the project's recipes, or explain one, by name or file."""
    from fusegpt.workflow import json_schema, manual

    if schema is not None:
        made = json_schema.recipe_schema if schema == "recipe" else json_schema.experiment_schema
        click.echo(json.dumps(made(), indent=1))
    elif tables:
        click.echo(manual.settings_document(), nl=False)
    elif recipe is None:
        click.echo(manual.recipe_list())
    else:
        from fusegpt.pruning.recipe import load_recipe

        click.echo(manual.explained(load_recipe(recipe)))
