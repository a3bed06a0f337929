"""The page at `/`: a text, its blanks, and what comes into them. Static files, without anything from elsewhere.

index.html      what is on it
style.css       how it looks, light and dark
page.js         what happens when somebody writes, chooses or fills
words.js        a text as words that can be blanked, by mouse and by keyboard
service.js      asking the service, and reading its streams
experts.js      which expert took each token, as a table
"""
