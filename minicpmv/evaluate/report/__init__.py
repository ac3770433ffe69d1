"""What a run comes to, for people: tables, deviations from the cards, pages of failures."""
