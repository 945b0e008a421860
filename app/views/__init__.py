"""The pages, each a function `page` that draws what the registries know.

Not called `pages`: Streamlit runs the files of a folder of that name beside main.py as scripts of their
own, when the first address a server is asked for is one of them.
"""
