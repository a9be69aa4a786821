"""What people look at: tables, plots, pages. Import its modules by name: a table must not load plotly."""
