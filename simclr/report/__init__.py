"""What a sweep of runs has shown: tables, figures and sentences no stronger than their intervals."""
