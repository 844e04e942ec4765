"""What the demo's people talk about: made-up days at a lighthouse, the first week told twice.

`RETOLD` says the same as the first of `DAYS`, day by day, in other words; every fact is the same in both.
"""

from __future__ import annotations


def _flow(text: str) -> str:
    """One paragraph, without the line breaks of this file."""
    return " ".join(text.split())


PLANNER = "You help a small team that restores the lighthouse of Varrow Point. Answer in one or two sentences."
REVIEWER = (
    "You are a careful reviewer who reads the notes of building projects for a foundation that pays for them. "
    "Be brief and name the people concerned."
)

DAYS = tuple(
    _flow(day)
    for day in (
        """Monday. Ines Calder opened the week in the keeper's kitchen with everybody present. The scaffold on the
        north side is up, the one on the west side needs two more days because the van with the base plates
        broke down near Hollin Bridge. Tomas Vey checked the spiral staircase and counted eleven treads that are
        loose; he wants to replace them with oak from the old boat shed, which has been drying for six years.
        While he was up there he found a crack in the cast iron frame of the lantern room, about forty
        centimetres long, on the side that faces the sea. Nobody had seen it before because of the paint. Ines
        decided that no one works under the frame until it has been looked at. Odile Marsh has pulled the old
        wiring out of the lower two floors and filled nine sacks with it. She asked whether the fog horn is
        meant to sound again; Junia Pell says that the village voted for it, but only at noon on Sundays. Bram
        Okoro reported that 61,400 crowns of the 95,000 are spent, and that the foundation pays the next part
        only when the roof is tight.""",
        """Tuesday. The metal worker from Skarn, a quiet woman called Petra Lund, came on the early ferry and spent
        three hours with a lamp and a mirror at the crack. Her finding: it is old, it does not go through, and
        it can be stitched cold with steel keys, without welding. She can do it on Thursday for 3,200 crowns, if
        the wind stays under six. Ines agreed at once. Tomas has cut the first four treads and says that the oak
        is harder than he thought; he ordered two new saw blades. Junia brought a box from the county archive
        with letters of the keeper Anselm Rook, who served here from 1902 to 1931. One of them describes the
        original colour of the door, a dark green that he calls bottle green, and a small window over the stove
        that was bricked up after a storm. She would like to open that window again. Bram doubts that there is
        money for it and asked her to find out what a mason would take. Odile laid the new cable from the meter
        to the first floor. She noticed that the cellar is damp behind the cistern and put up a gauge to see if
        the water rises with the tide.""",
        """Wednesday. Rain until two in the afternoon, so all outside work stood still. The glass works in Ostry
        sent their offer for the lantern: sixteen curved panes for 12,750 crowns, to be delivered in five weeks,
        or the same in flat glass for 7,900 in three weeks. Ines wants the curved ones, because flat panes would
        throw the beam wrong and the heritage office would never sign. Bram moved the cost of the painting into
        next spring to pay for it, and wrote to the foundation to explain the change. In the dry room on the
        second floor Tomas fitted seven treads and found that the centre post leans by two degrees; he wedged it
        and will measure it every morning. The gauge behind the cistern went up by four centimetres at high tide
        and came down again, so the sea does come in, Odile says, by the old drain. She proposes a simple flap
        valve, which she can build herself from a kit for 180 crowns. Junia spoke with the mason, Emil Strand;
        he would open the little window and set a new lintel for 1,100 crowns, and could begin on Monday next
        week. The decision about that was put off until Friday.""",
        """Thursday. The wind was at four in the morning and Petra set twenty-two keys into the frame before lunch.
        She filed them flush, brushed the seam with red lead and said that it is now the strongest part of the
        whole lantern. The ban on working below was lifted at one o'clock. The west scaffold stands at last. A
        reporter of the Coast Gazette came by without notice and took pictures; Junia showed her the letters and
        asked her not to print the date of the opening, as it is not certain yet. Tomas finished the last of the
        eleven treads and oiled the handrail. His measurement of the centre post shows no change. Odile built in
        the flap valve at low tide, standing in cold water up to her knees, and tested it with a bucket. She
        also found that the fuse board that was delivered is the wrong one, made for three phases; the shop in
        Skarn will exchange it, but not before Tuesday, so there is no light on the upper floors until then.
        Bram got an answer from the foundation: they accept the curved glass, under the condition that an
        engineer signs for the repaired frame.""",
        """Friday. Petra knows an engineer, Dr. Hanno Weil, who can come on Wednesday next week and charges 450
        crowns for the visit and the paper. Ines booked him by telephone. The gauge in the cellar has not moved
        since the valve is in, and the wall is drying. Everybody voted on the little window: four for it, Bram
        against it, with the remark that he will be glad to be wrong. Emil Strand starts on Monday. Tomas goes
        to Ostry himself to take the measures for the panes, since the drawing from 1902 and the frame differ by
        up to nine millimetres. The roof has been tight since Thursday evening, and Bram has sent the
        photographs to the foundation so that the next 20,000 crowns can be paid out. Junia has found a painter
        who can mix the bottle green after a flake of old paint from under the hinge. The opening was set for
        the second Saturday in June, at noon, with the fog horn, if the glass comes in time; if not, it will be
        two weeks later. Ines closed the week with a pot of soup for all, and asked that everyone writes down
        their hours before they take the ferry.""",
        """Monday of the second week. Emil Strand opened the little window before ten o'clock and found the old
        lintel behind the bricks, sound and dry, so that the new one is not needed and he charges only 840
        crowns. Behind it lay a tin with nine nails and a page from a tide table of 1911, which Junia took to
        the archive. Tomas is back from Ostry; the glass works will cut each of the sixteen panes to its own
        measure, at no further cost, and have moved the delivery to the Thursday of the fifth week. He brought a
        sample of the glass, and all held it against the sun. Odile measured the cellar wall: from nineteen
        parts of water in the hundred it has come down to fourteen. The fuse board has not arrived. Bram
        received the 20,000 crowns and paid Petra, the glass works' deposit of 4,000 and the hire of the
        scaffold. He found as well that the insurance ends in May, four weeks before the opening, and asked for
        an offer to extend it. Ines walked up to the gallery with a surveyor from the harbour, who wants a
        second railing on the land side, ninety centimetres high, before any visitor may go out there. Tomas
        thinks that he can forge it with his cousin in Skarn in three days, if the harbour lends them its small
        furnace.""",
        """Tuesday of the second week. The right fuse board came with the noon ferry, and by six in the evening
        there was light on every floor for the first time in eleven years. Odile left one lamp on in the lantern
        room, and a fishing boat sounded its horn in answer. The insurance for another year costs 960 crowns;
        Bram agreed to it, after he had asked two other companies. The painter, a young man named Silas Thorn,
        mixed the bottle green and tried it on a board beside the door; Junia is content, Ines finds it a shade
        too blue, and the two will look again when it has dried. The reporter's article appeared on page three
        with a photograph of the letters, and did not name a date. Since the morning four people have called who
        want to lend a hand; Ines put them down for the garden, which has been waiting since autumn. Tomas
        measured the centre post as every day: it has not moved, so the wedge stays and the matter is closed.
        The harbour lends the furnace from Friday to Sunday. What is still open after today: the engineer's
        signature tomorrow, the second railing, the glass, the colour of the door, and a test of the fog horn,
        for which the coast guard has to be told two days ahead. Ines wrote this list on the kitchen wall in
        chalk and signed it.""",
    )
)

RETOLD = tuple(
    _flow(day)
    for day in (
        """Monday. Ines Calder started the week with the whole team in the keeper's kitchen. The scaffolding on the
        north side stands, that on the west side will need another two days, as the lorry with the base plates
        had a breakdown near Hollin Bridge. Tomas Vey looked over the spiral stairs and counted eleven loose
        steps; he would like to replace them with oak out of the old boat shed that has dried for six years. Up
        there he also discovered a crack in the cast iron frame of the lantern room, some forty centimetres
        long, on the side towards the sea. No one had noticed it until now because of the paint. Ines ruled that
        nobody may work below the frame before it has been examined. Odile Marsh has taken the old wiring out of
        the two lower floors and filled nine bags with it. She wondered if the fog horn is supposed to sound
        again; Junia Pell answers that the village has voted for it, though only on Sundays at noon. Bram Okoro
        told us that 61,400 crowns out of 95,000 have been spent, and that the foundation will pay the next
        share only once the roof is tight.""",
        """Tuesday. A metal worker from Skarn, a silent woman named Petra Lund, arrived with the early ferry and
        examined the crack for three hours with a lamp and a mirror. What she found: it is old, it does not go
        all the way through, and it may be stitched cold with keys of steel, with no welding. She could do this
        on Thursday for 3,200 crowns, provided the wind stays below six. Ines said yes at once. Tomas cut the
        first four steps and finds the oak harder than he expected; he has ordered two new blades for the saw.
        Junia came with a box from the county archive holding letters by the keeper Anselm Rook, who worked here
        between 1902 and 1931. One letter describes the first colour of the door, a dark green he names bottle
        green, and a little window above the stove that was walled up after a storm. She wants to open this
        window again. Bram is not sure there is money for that and asked her to learn what a mason would charge.
        Odile ran the new cable from the meter up to the first floor. She saw that the cellar is wet behind the
        cistern and set up a gauge to learn whether the water rises with the tide.""",
        """Wednesday. It rained until two in the afternoon, and so all work outside stopped. The glass works of
        Ostry sent an offer for the lantern: sixteen curved panes at 12,750 crowns, delivered in five weeks, or
        the same panes in flat glass at 7,900 in three weeks. Ines prefers the curved ones, since flat panes
        would throw the beam the wrong way and the heritage office would not sign that. Bram shifted the cost of
        painting to next spring to pay for them, and wrote a letter to the foundation that explains the change.
        In the dry room on the second floor Tomas put in seven steps and saw that the centre post leans by two
        degrees; he has wedged it and is going to measure it each morning. The gauge behind the cistern rose by
        four centimetres at high tide and fell again, which means the sea comes in, says Odile, through the old
        drain. She suggests a simple flap valve, and can build it herself out of a kit for 180 crowns. Junia
        talked to the mason, Emil Strand; he would open the small window and put in a new lintel for 1,100
        crowns, and might start on Monday next week. We put off the decision on it until Friday.""",
        """Thursday. In the morning the wind was at four, and Petra put twenty-two keys into the frame before
        lunch. She filed them flat, painted the seam with red lead and told us it is now the strongest part of
        the entire lantern. At one o'clock the ban on work below it was lifted. The scaffolding on the west side
        is up at last. A reporter from the Coast Gazette turned up unannounced and took photographs; Junia
        showed her the letters and begged her not to print the date of the opening, because it is not yet
        certain. Tomas completed the last of the eleven steps and oiled the handrail. He measured the centre
        post and found no change. Odile installed the flap valve at low tide, up to her knees in cold water, and
        tried it out with a bucket. She discovered as well that the fuse board we were sent is the wrong one,
        meant for three phases; the shop at Skarn is going to exchange it, yet not before Tuesday, and until
        then there is no light on the upper floors. Bram heard back from the foundation: they agree to the
        curved glass, on the condition that an engineer signs for the repair of the frame.""",
        """Friday. Petra recommends an engineer, Dr. Hanno Weil, who is able to come on Wednesday next week and
        asks 450 crowns for the visit and the paper. Ines has booked him over the telephone. The gauge in the
        cellar has stood still since the valve was put in, and the wall dries out. All voted about the small
        window: four in favour, Bram against, who added that he would be glad to be wrong. Emil Strand begins on
        Monday. Tomas travels to Ostry in person to give the measures of the panes, because the drawing of 1902
        and the frame differ by as much as nine millimetres. Since Thursday evening the roof has been tight, and
        Bram sent photographs of it to the foundation, so that they can pay out the next 20,000 crowns. Junia
        knows a painter now who is able to mix the bottle green from a flake of old paint found under the hinge.
        We set the opening for the second Saturday in June, at noon, with the fog horn, if the glass arrives in
        time; otherwise it is going to be two weeks later. Ines ended the week with a pot of soup for everybody,
        and asked all to note down their hours before they go to the ferry.""",
    )
)

UNRELATED = _flow(
    """My sourdough comes out flat every time. I feed the starter at nine in the evening with equal weights of
    rye flour and water, mix the dough at seven with 500 grams of wheat flour, 350 grams of water and 10
    grams of salt, fold it four times in two hours, shape it, and leave it in the fridge until the next
    morning. The oven is at 230 degrees and I bake on a stone with a bowl of hot water below. The crumb is
    dense near the bottom, the crust is pale, and the loaf spreads as soon as it leaves the basket. My
    kitchen has about nineteen degrees in winter, and the starter doubles only after ten hours. What should
    I change first?"""
)
