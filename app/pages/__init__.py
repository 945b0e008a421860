"""The pages, each a function `page` that draws what the registries know."""
